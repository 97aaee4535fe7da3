"""Measures the zoo networks on held-out portraits, and on photographs if a folder of them is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mmface.data.portraits import HAIR_COLOURS
from mmface.errors import InputError
from mmface.imaging.labels import LABELS, mask_from_png, mask_to_rgb
from mmface.networks.components import load_clip, load_parser, load_sketcher, load_vae
from mmface.networks.places import BASE, NAMES, PREFIX, resolve
from mmface.zoo.drawn import HELD_OUT_SEED, SIZE, Drawn, drawn
from mmface.zoo.measure_base import measure_base
from mmface.zoo.train_clip import image_features, retrieval, text_features
from mmface.zoo.train_parser import per_label_iou, predict
from mmface.zoo.train_sketch import target

LIMIT_MB = 16
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Pictures:
    """Images uint8 [N, 128, 128, 3] of one kind, with masks uint8 [N, 128, 128] or None."""

    kind: str  # portraits, photographs
    images: NDArray[np.uint8]
    masks: NDArray[np.uint8] | None


@dataclass(frozen=True)
class Networks:
    """The networks to measure."""

    parser: Any
    sketcher: Any
    vae: Any  # None before it is trained


def load_photos(folder: Path, n: int) -> Pictures:
    """The first ``n`` images of a folder, with their masks ``../masks/<stem>.png`` if all of them exist.

    Raises:
        InputError: no such folder, or no image in it.
    """
    paths = sorted(p for p in folder.glob("*") if p.suffix.lower() in _SUFFIXES)[:n] if folder.is_dir() else []
    if not paths:
        raise InputError(f"{folder} holds no jpg, png or webp file: give a folder of photographs", field="photos")
    images = []
    for path in paths:
        with Image.open(path) as file:
            images.append(np.asarray(file.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)))
    folder_of_masks = folder.parent / "masks"
    if not all((folder_of_masks / f"{p.stem}.png").is_file() for p in paths):
        return Pictures("photographs", np.stack(images), None)
    masks = [mask_from_png((folder_of_masks / f"{p.stem}.png").read_bytes()) for p in paths]
    small = [np.asarray(Image.fromarray(m).resize((SIZE, SIZE), Image.Resampling.NEAREST)) for m in masks]
    return Pictures("photographs", np.stack(images), np.stack(small))


def _pixels(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


@torch.inference_mode()
def reconstruct(vae: Any, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Encodes images to the VAE's mean and decodes them again, uint8 [N, S, S, 3]."""
    parts = []
    for part in np.array_split(images, max(1, len(images) // 16)):
        encoded = vae.encode(_pixels(part) * 2 - 1)
        latent = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
        decoded: Tensor = vae.decode(latent).sample
        parts.append(((decoded.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).numpy().astype(np.uint8))
    return np.concatenate(parts)


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB, averaged over the images."""
    mse = ((a.astype(np.float64) - b) ** 2).mean(axis=(1, 2, 3))
    return float((10 * np.log10(255**2 / np.maximum(mse, 1e-9))).mean())


@torch.inference_mode()
def draw_sketches(model: Any, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Sketches uint8 [N, S, S], dark lines on white."""
    parts = [model(_pixels(part))[:, 0] for part in np.array_split(images, max(1, len(images) // 16))]
    return np.asarray((torch.cat(parts) * 255).round().numpy(), np.uint8)


def hair_word_accuracy(model: Any, tokenizer: Any, data: Drawn) -> float:
    """Share of portraits whose hair-colour word is the nearest in "a person with … hair" (chance: 1 in 6)."""
    words = list(HAIR_COLOURS)
    texts = text_features(model, tokenizer, [f"a person with {word} hair" for word in words])
    best = (image_features(model, data.images) @ texts.T).argmax(1).tolist()
    truth = [one["hair_colour"] for one in data.attributes]
    return float(np.mean([words[i] == word for i, word in zip(best, truth, strict=True) if word != "none"]))


def _sizes() -> dict[str, float]:
    folders = {name: Path(resolve(PREFIX + name)) for name in NAMES}
    sizes = {n: sum(f.stat().st_size for f in p.rglob("*") if f.is_file()) / 1e6 for n, p in folders.items()}
    return {f"{name} on disk, MB": size for name, size in sizes.items()} | {
        f"all on disk, MB (limit {LIMIT_MB})": sum(sizes.values())
    }


def _measure_pictures(of: Pictures, by: Networks) -> tuple[dict[str, float], NDArray[np.uint8]]:
    """Figures by name, and a contact sheet: twelve images above their masks, sketches and reconstructions."""
    figures: dict[str, float] = {}
    found, drawings = predict(by.parser, of.images), draw_sketches(by.sketcher, of.images[:64])
    if of.masks is not None:
        ious = per_label_iou(found, of.masks)
        figures[f"parser mIoU, {of.kind}"] = float(np.nanmean(ious))
        figures |= {f"parser IoU {name}, {of.kind}": float(iou) for name, iou in zip(LABELS, ious, strict=True)}
    labels = torch.from_numpy(of.masks[:64]).long() if of.kind == "portraits" and of.masks is not None else None
    wanted = 1 - target(_pixels(of.images[:64]), labels)[:, 0].numpy()
    figures[f"sketch mean error of 0..1, {of.kind}"] = float(np.abs(drawings / 255 - wanted).mean())
    rows = [of.images[:12], mask_to_rgb(found[:12]), np.repeat(drawings[:12, ..., None], 3, axis=-1)]
    if by.vae is not None:
        rebuilt = reconstruct(by.vae, of.images)
        figures[f"VAE PSNR in dB, {of.kind}"] = psnr(rebuilt, of.images)
        rows.append(rebuilt[:12])
    return figures, np.concatenate([np.concatenate(list(row), axis=1) for row in rows])


def measure(n: int = 256, photos: Path | None = None, sheet: Path | None = None) -> dict[str, float]:
    """All figures of the zoo by name; also writes the contact sheet if ``sheet`` is given.

    Args:
        n: number of held-out portraits, a multiple of 32, and the largest number of photographs.
        photos: a folder of real photographs, with masks in ``../masks`` or without.
        sheet: PNG to write, one column per image: image, parsed mask, sketch, VAE reconstruction.

    Raises:
        InputError: ``n`` is not a positive multiple of 32, or ``photos`` holds no image.
    """
    if n < 32 or n % 32:
        raise InputError(f"{n} is not a positive multiple of 32: give 32, 64, …", field="n")
    real = load_photos(photos, n) if photos else None
    data = drawn(n, HELD_OUT_SEED)
    vae = load_vae("zoo:vae") if Path(resolve("zoo:vae")).is_dir() else None
    networks = Networks(load_parser("zoo:parser")[0], load_sketcher("zoo:sketch"), vae)
    figures, strip = _measure_pictures(Pictures("portraits", data.images, data.masks), networks)
    if real:
        more, below = _measure_pictures(real, networks)
        figures |= more
        if below.shape[1] == strip.shape[1]:  # twelve photographs or more
            strip = np.concatenate([strip, below])
    clip, tokenizer, _ = load_clip("zoo:clip")
    figures["CLIP right caption among 32"] = retrieval(clip, tokenizer, data)
    figures["CLIP right hair-colour word among 6"] = hair_word_accuracy(clip, tokenizer, data)
    if sheet:
        Image.fromarray(strip).save(sheet)
    base = Path(resolve(f"{PREFIX}{BASE}"))
    if base.is_dir():
        figures |= measure_base(base)
    return figures | _sizes()


def as_table(figures: dict[str, float]) -> str:
    """The figures as a markdown table."""
    lines = ["| figure | value |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {name} | {value:.3f} |" for name, value in figures.items())])
