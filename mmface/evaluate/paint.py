"""Paints held-out rows with the pipeline that also serves, and measures the images (§2).

There are three kinds of samples: ``mask``, ``sketch`` and ``unconditional``. The last are the sketch rows with the same
prompt and seed, but without the sketch: the baseline of the edge agreement.
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
    """Chooses the first rows by id for every modality, and adds the column ``modality``.

    Args:
        rows: held-out rows with ``id`` and the columns that :class:`Paint` reads.
        evaluate: number of rows per modality.
    """
    ordered = sorted(rows, key=lambda row: str(row["id"]))
    counts = {"mask": evaluate.n, "sketch": evaluate.n_sketch, UNCONDITIONAL: evaluate.n_sketch}
    return [{**row, "modality": modality} for modality, count in counts.items() for row in ordered[:count]]


def choose_prompt(captions: Sequence[str]) -> str:
    """The first caption that names a hair colour, which can be checked; otherwise the first caption."""
    return next((text for text in captions if metrics.prompted_hair(text)), captions[0])


def seed_of(image_id: str) -> int:
    """A 31-bit seed from the row's id, so that a row has the same noise in every evaluation and modality."""
    return int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:4], "big") >> 1


@dataclass(frozen=True)
class Inputs:
    """The inputs of one batch: B images at the resolution of the evaluation."""

    rows: list[Row]
    prompts: list[str]
    masks: NDArray[np.uint8]  # [B, H, W]
    sketches: Tensor  # [B, H, W] grey in 0..1
    sources: list[Image.Image]


class Paint:
    """The ``samples`` stage: paints and measures rows of :func:`plan`.

    Args:
        recipe: gives the components, the sampling and the resolution (of the last phase).
        transformer_folder: a trained transformer, written by ``save_pretrained``.
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
        """Rows of :func:`plan` -> rows of :data:`mmface.datasets.records.SAMPLES`.

        Reads the columns id, image, mask, sketch (bytes of the files), captions and modality.
        """
        return [sample for batch in batches(rows, self.recipe.evaluate.batch_size) for sample in self._batch(batch)]

    def _batch(self, rows: list[Row]) -> list[dict[str, Any]]:
        inputs = self._read(rows)
        generated = self._paint(inputs)
        seen, seen_source = self.judges.look(generated), self.judges.look(inputs.sources)
        figures = self._measure(inputs, generated, seen, seen_source)
        modality = rows[0]["modality"]
        shown = inputs.masks if modality == "mask" else (inputs.sketches.numpy() * 255).round().astype(np.uint8)
        to_png = mask_to_png if modality == "mask" else grey_png
        return [
            {
                "id": f"{row['id']}-{modality}",
                "image_id": row["id"],
                "modality": modality,
                "prompt": inputs.prompts[i],
                "seed": seed_of(row["id"]),
                "condition": to_png(shown[i]),
                "generated": _png(generated[i]),
                "source": _png(inputs.sources[i]),
                "metrics": [(name, value) for name, value in figures[i].items()],
                "features_generated": seen.embeddings[i].numpy().astype("<f4").tobytes(),
                "features_source": seen_source.embeddings[i].numpy().astype("<f4").tobytes(),
            }
            for i, row in enumerate(rows)
        ]

    def _read(self, rows: list[Row]) -> Inputs:
        limits = self.recipe.data.max_megapixels, self.recipe.picture_side
        pictures = [square_picture(row["image"], *limits) for row in rows]
        sketches = [sketch_to_tensor(Image.open(BytesIO(row["sketch"])), self.size) for row in rows]
        return Inputs(
            rows=rows,
            prompts=[choose_prompt(row["captions"]) for row in rows],
            masks=np.stack([resize_mask(mask_from_png(row["mask"]), self.size) for row in rows]),
            sketches=(torch.stack(sketches)[:, 0] + 1) / 2,
            sources=to_pil(torch.stack([to_tensor(picture, self.size) for picture in pictures])),
        )

    def _paint(self, inputs: Inputs) -> list[Image.Image]:
        modality = inputs.rows[0]["modality"]
        painted = self.pipeline(
            prompt=inputs.prompts,
            condition=self._condition(inputs, modality),
            modality="mask" if modality == "mask" else "sketch",
            height=self.size,
            width=self.size,
            num_inference_steps=self.recipe.sampling.num_inference_steps,
            guidance_scale=self.recipe.sampling.guidance_scale,
            seeds=[seed_of(row["id"]) for row in inputs.rows],
        )
        assert isinstance(painted, MMFacePipelineOutput)
        assert isinstance(painted.images, list)
        return painted.images

    def _condition(self, inputs: Inputs, modality: str) -> Tensor | None:
        if modality == UNCONDITIONAL:
            return None
        if modality == "sketch":
            return (inputs.sketches * 2 - 1)[:, None].expand(-1, 3, -1, -1)
        # From the stored mask, not the resized copy: the recipe's data.mask_resize may resize differently.
        masks = [mask_from_png(row["mask"]) for row in inputs.rows]
        return torch.stack([mask_to_tensor(mask, self.size, self.recipe.data.mask_resize) for mask in masks])

    def _measure(
        self, inputs: Inputs, generated: list[Image.Image], seen: Seen, source: Seen
    ) -> list[dict[str, float]]:
        """Metrics of each image; ``source_*`` are those of the photograph, which a perfect model would reach."""
        pixels, source_pixels = (
            torch.stack([to_tensor(image, self.size) for image in images]) for images in (generated, inputs.sources)
        )
        masks = torch.from_numpy(inputs.masks)
        texts = self.judges.read(inputs.prompts)
        columns = {
            "miou": metrics.mask_iou(metrics.label_counts(seen.labels, masks)),
            "accuracy": metrics.mask_accuracy(metrics.label_counts(seen.labels, masks)),
            "source_miou": metrics.mask_iou(metrics.label_counts(source.labels, masks)),
            "clip_score": metrics.clip_score(seen.embeddings, texts),
            "source_clip_score": metrics.clip_score(source.embeddings, texts),
            "clip_distance": 1 - metrics.cosine(seen.embeddings, source.embeddings),
            f"lpips_{metrics.slug(self.recipe.components.parser)}": metrics.feature_distance(
                seen.stages, source.stages
            ),
            "ssim": metrics.ssim(pixels, source_pixels),
            "edge_agreement": metrics.edge_agreement(self.judges.draw(generated), inputs.sketches),
        }
        figures = [{name: float(values[i]) for name, values in columns.items()} for i in range(len(generated))]
        for i, prompt in enumerate(inputs.prompts):
            word = metrics.prompted_hair(prompt)
            found = metrics.hair_word(pixels[i], masks[i])
            if word is not None and found is not None:
                figures[i]["hair_colour_accuracy"] = float(found == word)
                figures[i]["source_hair_colour_accuracy"] = float(metrics.hair_word(source_pixels[i], masks[i]) == word)
        return figures


def batches(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    """Splits rows into batches of one modality each; keeps the order of rows within a modality."""
    for modality in dict.fromkeys(row["modality"] for row in rows):
        same = [row for row in rows if row["modality"] == modality]
        yield from (same[start : start + size] for start in range(0, len(same), size))


def _png(image: Image.Image) -> bytes:
    sink = BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()
