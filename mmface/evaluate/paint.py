"""Paints held-out rows through the serving pipeline and measures the pictures (§2: both call the same one).

Three kinds of samples: ``mask``, ``sketch``, and ``unconditional``: the sketch rows again, with the same prompt and
seed, but the drawing dropped. They are the baseline that edge agreement is read against.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mmface.bundles.bundle import build_pipeline
from mmface.config import Evaluate, Recipe
from mmface.data.conditions import grey_png, square_picture
from mmface.evaluate import metrics
from mmface.evaluate.judges import Judges, Seen
from mmface.imaging.labels import mask_from_png, mask_to_png
from mmface.imaging.pixels import mask_to_tensor, resize_mask, sketch_to_tensor, to_pil, to_tensor
from mmface.networks.precision import keep_in_bf16
from mmface.pipeline import MMFacePipelineOutput

Row = Mapping[str, Any]
UNCONDITIONAL = "unconditional"


def plan(rows: Iterable[Row], evaluate: Evaluate) -> list[dict[str, Any]]:
    """What is to be painted: the first rows by id, once for every modality, named by ``modality``.

    Args:
        rows: held-out rows with ``id`` and whatever :class:`Paint` reads.
        evaluate: how many of each.
    """
    ordered = sorted(rows, key=lambda row: str(row["id"]))
    counts = {"mask": evaluate.n, "sketch": evaluate.n_sketch, UNCONDITIONAL: evaluate.n_sketch}
    return [{**row, "modality": modality} for modality, count in counts.items() for row in ordered[:count]]


def choose_prompt(captions: Sequence[str]) -> str:
    """The first caption that names a hair colour (so that it can be checked), else the first."""
    return next((text for text in captions if metrics.prompted_hair(text)), captions[0])


def seed_of(image_id: str) -> int:
    """31 bits from the row's id: the same row has the same noise in every evaluation and modality."""
    return int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:4], "big") >> 1


@dataclass(frozen=True)
class Asked:
    """What one batch was given; B pictures of the evaluation's resolution."""

    rows: list[Row]
    prompts: list[str]
    masks: NDArray[np.uint8]  # [B, H, W]
    sketches: Tensor  # [B, H, W] grey in 0..1
    sources: list[Image.Image]


class Paint:
    """The ``samples`` stage: planned rows to rows of :data:`mmface.datasets.records.SAMPLES`.

    Args:
        recipe: says the components, the sampling and the resolution (its last phase's).
        transformer_folder: a trained transformer, as ``save_pretrained`` wrote it.
        device: where to paint.
    """

    def __init__(self, recipe: Recipe, transformer_folder: Path | str, device: str = "cpu") -> None:
        self.recipe = recipe
        self.size = recipe.phases[-1].resolution
        self.pipeline = build_pipeline(recipe, transformer_folder).to(device)
        if self.pipeline.bf16:
            keep_in_bf16(self.pipeline.transformer)
        self.judges = Judges(recipe.components, device)

    def __call__(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Paints rows of :func:`plan`: id, image, mask, sketch (files' bytes), captions, modality."""
        return [sample for batch in batches(rows, self.recipe.evaluate.batch_size) for sample in self._batch(batch)]

    def _batch(self, rows: list[Row]) -> list[dict[str, Any]]:
        asked = self._read(rows)
        generated = self._paint(asked)
        seen, seen_source = self.judges.look(generated), self.judges.look(asked.sources)
        figures = self._measure(asked, generated, seen, seen_source)
        modality = rows[0]["modality"]
        shown = asked.masks if modality == "mask" else (asked.sketches.numpy() * 255).round().astype(np.uint8)
        to_png = mask_to_png if modality == "mask" else grey_png
        return [
            {
                "id": f"{row['id']}-{modality}",
                "image_id": row["id"],
                "modality": modality,
                "prompt": asked.prompts[i],
                "seed": seed_of(row["id"]),
                "condition": to_png(shown[i]),
                "generated": _png(generated[i]),
                "source": _png(asked.sources[i]),
                "metrics": [(name, value) for name, value in figures[i].items()],
                "features_generated": seen.embeddings[i].numpy().astype("<f4").tobytes(),
                "features_source": seen_source.embeddings[i].numpy().astype("<f4").tobytes(),
            }
            for i, row in enumerate(rows)
        ]

    def _read(self, rows: list[Row]) -> Asked:
        limits = self.recipe.data.max_megapixels, self.recipe.picture_side
        pictures = [square_picture(row["image"], *limits) for row in rows]
        sketches = [sketch_to_tensor(Image.open(BytesIO(row["sketch"])), self.size) for row in rows]
        return Asked(
            rows=rows,
            prompts=[choose_prompt(row["captions"]) for row in rows],
            masks=np.stack([resize_mask(mask_from_png(row["mask"]), self.size) for row in rows]),
            sketches=(torch.stack(sketches)[:, 0] + 1) / 2,
            sources=to_pil(torch.stack([to_tensor(picture, self.size) for picture in pictures])),
        )

    def _paint(self, asked: Asked) -> list[Image.Image]:
        modality = asked.rows[0]["modality"]
        painted = self.pipeline(
            prompt=asked.prompts,
            condition=self._condition(asked, modality),
            modality="mask" if modality == "mask" else "sketch",
            height=self.size,
            width=self.size,
            num_inference_steps=self.recipe.sampling.num_inference_steps,
            guidance_scale=self.recipe.sampling.guidance_scale,
            seeds=[seed_of(row["id"]) for row in asked.rows],
        )
        assert isinstance(painted, MMFacePipelineOutput)
        assert isinstance(painted.images, list)
        return painted.images

    def _condition(self, asked: Asked, modality: str) -> Tensor | None:
        if modality == UNCONDITIONAL:
            return None
        if modality == "sketch":
            return (asked.sketches * 2 - 1)[:, None].expand(-1, 3, -1, -1)
        # From the stored mask, not the resized one: the recipe may resize in another way.
        masks = [mask_from_png(row["mask"]) for row in asked.rows]
        return torch.stack([mask_to_tensor(mask, self.size, self.recipe.data.mask_resize) for mask in masks])

    def _measure(self, asked: Asked, generated: list[Image.Image], seen: Seen, source: Seen) -> list[dict[str, float]]:
        """Figures of each picture; ``source_*`` are those of its source, which a perfect painter would reach."""
        pixels, source_pixels = (
            torch.stack([to_tensor(image, self.size) for image in images]) for images in (generated, asked.sources)
        )
        masks = torch.from_numpy(asked.masks)
        texts = self.judges.read(asked.prompts)
        columns = {
            "miou": metrics.mask_iou(seen.labels, masks),
            "accuracy": metrics.mask_accuracy(seen.labels, masks),
            "source_miou": metrics.mask_iou(source.labels, masks),
            "clip_score": metrics.clip_score(seen.embeddings, texts),
            "source_clip_score": metrics.clip_score(source.embeddings, texts),
            "clip_distance": 1 - metrics.cosine(seen.embeddings, source.embeddings),
            f"lpips_{metrics.slug(self.recipe.components.parser)}": metrics.feature_distance(
                seen.stages, source.stages
            ),
            "ssim": metrics.ssim(pixels, source_pixels),
            "edge_agreement": metrics.edge_agreement(self.judges.draw(generated), asked.sketches),
        }
        figures = [{name: float(values[i]) for name, values in columns.items()} for i in range(len(generated))]
        for i, prompt in enumerate(asked.prompts):
            word = metrics.prompted_hair(prompt)
            found = metrics.hair_word(pixels[i], masks[i])
            if word is not None and found is not None:
                figures[i]["hair_colour_accuracy"] = float(found == word)
                figures[i]["source_hair_colour_accuracy"] = float(metrics.hair_word(source_pixels[i], masks[i]) == word)
        return figures


def batches(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    """Batches of one modality each, in the order of ``rows`` within a modality."""
    for modality in dict.fromkeys(row["modality"] for row in rows):
        same = [row for row in rows if row["modality"] == modality]
        yield from (same[start : start + size] for start in range(0, len(same), size))


def _png(image: Image.Image) -> bytes:
    sink = BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()
