"""Paints the rows of an evaluation set with the pipeline that also serves (§8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmface.config import Recipe
from mmface.config.guidance import Guidance
from mmface.data.conditions import grey_png
from mmface.evaluate.evalset import UNCONDITIONAL
from mmface.evaluate.inputs import Inputs, Row, batches, read_inputs
from mmface.imaging.labels import mask_from_png, mask_to_png
from mmface.imaging.pixels import mask_to_tensor
from mmface.networks.precision import keep_in_bf16
from mmface.pipeline import MMFacePipeline, MMFacePipelineOutput


class Paint:
    """The ``samples`` stage: paints rows of an evaluation set.

    Args:
        recipe: gives the sampling, the resolution (of the last phase) and the limits of decoding.
        pipeline: of the model.
        device: where to paint.
    """

    def __init__(self, recipe: Recipe, pipeline: MMFacePipeline, device: str = "cpu") -> None:
        self.recipe = recipe
        self.size = recipe.phases[-1].resolution
        self.pipeline = pipeline.to(device)
        if self.pipeline.bf16:
            keep_in_bf16(self.pipeline.transformer)

    def __call__(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Rows of :func:`mmface.evaluate.evalset.requests` -> rows of :data:`mmface.datasets.records.SAMPLES`."""
        return [sample for batch in batches(rows, self.recipe.evaluate.batch_size) for sample in self._batch(batch)]

    def _batch(self, rows: list[Row]) -> list[dict[str, Any]]:
        inputs = read_inputs(rows, self.recipe)
        return sample_rows(inputs, self._paint(inputs))

    def _paint(self, inputs: Inputs) -> list[Image.Image]:
        painted = self.pipeline(
            prompt=inputs.prompts,
            condition=self._condition(inputs),
            modality="mask" if inputs.modality == "mask" else "sketch",
            height=self.size,
            width=self.size,
            num_inference_steps=self.recipe.sampling.num_inference_steps,
            **asdict(Guidance.of(self.recipe.sampling)),
            seeds=[int(row["seed"]) for row in inputs.rows],
        )
        assert isinstance(painted, MMFacePipelineOutput)
        assert isinstance(painted.images, list)
        return painted.images

    def _condition(self, inputs: Inputs) -> Tensor | None:
        if inputs.modality == UNCONDITIONAL:
            return None
        if inputs.modality == "sketch":
            return (inputs.sketches * 2 - 1)[:, None].expand(-1, 3, -1, -1)
        # From the stored mask, not the resized copy: the recipe's data.mask_resize may resize differently.
        masks = [mask_from_png(row["mask"]) for row in inputs.rows]
        return torch.stack([mask_to_tensor(mask, self.size, self.recipe.data.mask_resize) for mask in masks])


def sample_rows(inputs: Inputs, generated: Sequence[Image.Image]) -> list[dict[str, Any]]:
    """Rows of :data:`mmface.datasets.records.SAMPLES` of the images generated for a batch."""
    is_mask = inputs.modality == "mask"
    shown = inputs.masks if is_mask else (inputs.sketches.numpy() * 255).round().astype(np.uint8)
    to_png = mask_to_png if is_mask else grey_png
    return [
        {
            **{name: row[name] for name in ("id", "image_id", "modality", "prompt", "seed")},
            "condition": to_png(shown[i]),
            "generated": _png(generated[i]),
            "source": _png(inputs.sources[i]),
        }
        for i, row in enumerate(inputs.rows)
    ]


def _png(image: Image.Image) -> bytes:
    sink = BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()
