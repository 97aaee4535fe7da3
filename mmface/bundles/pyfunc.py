"""A bundle as a model of MLflow's pyfunc flavor: ``mlflow.pyfunc.load_model`` loads it through :mod:`mmface.bundle`."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mmface.bundles.bundle import Bundle, read_bundle
from mmface.config import Recipe
from mmface.imaging.labels import mask_from_png
from mmface.imaging.pixels import mask_to_tensor, sketch_to_tensor
from mmface.pipeline import MMFacePipelineOutput


class PyfuncModel:
    """The model that ``mlflow.pyfunc.load_model`` returns, wrapped by MLflow."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> list[str]:
        """Paints one image per row; returns base64 PNGs.

        Args:
            model_input: data frame with columns ``prompt``, ``modality`` (mask or sketch), ``condition`` (base64 PNG)
                and ``seed``.
            params: passed by MLflow, not used.
        """
        size, sampling = self.bundle.recipe.phases[-1].resolution, self.bundle.recipe.sampling
        rows = model_input.to_dict(orient="records")
        painted = self.bundle.pipeline(
            prompt=[row["prompt"] for row in rows],
            condition=torch.stack([_condition(row, size, self.bundle.recipe) for row in rows]),
            modality=[row["modality"] for row in rows],
            seeds=[int(row["seed"]) for row in rows],
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.guidance_scale,
        )
        assert isinstance(painted, MMFacePipelineOutput)
        return [base64.b64encode(_png(image)).decode() for image in painted.images]


def load_pyfunc(path: str) -> PyfuncModel:
    """Loads a bundle folder for MLflow."""
    return PyfuncModel(read_bundle(Path(path)))


def _condition(row: Mapping[str, Any], size: int, recipe: Recipe) -> torch.Tensor:
    data = base64.b64decode(row["condition"])
    if row["modality"] == "mask":
        return mask_to_tensor(mask_from_png(data), size, recipe.data.mask_resize)
    return sketch_to_tensor(Image.open(io.BytesIO(data)), size)


def _png(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()
