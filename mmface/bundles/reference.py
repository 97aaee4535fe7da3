"""The reference image of a bundle, which shows a loader whether the bundle still paints as it did (§8).

The evaluation painted it; it lies in the bundle's folder ``preview``. A replica paints it again before it serves.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmface.config import Recipe
from mmface.config.guidance import Guidance
from mmface.datasets.dataset import Dataset
from mmface.pipeline import MMFacePipeline, MMFacePipelineOutput

FOLDER = "preview"
DRAWING, PAINTED, REQUEST = "drawing.png", "painted.png", "request.json"


@dataclass(frozen=True)
class Preview:
    """A reference image: one held-out drawing and the image that the evaluation painted from it.

    Attributes:
        drawing, painted: content of the PNG files.
        modality: ``"mask"`` or ``"sketch"``.
    """

    drawing: bytes
    painted: bytes
    modality: str
    prompt: str
    seed: int


def choose_preview(samples: Dataset) -> Preview | None:
    """Chooses the first sketch by id of a ``samples`` dataset; None if there is none.

    Sketches only: a sample stores the exact sketch that it was painted from, but a resized copy of a mask.
    """
    names = [(row["id"], file.path) for file in samples.parts() for row in _sketches(samples, file.path)]
    if not names:
        return None
    first, path = min(names)
    row = next(row for row in samples.part(path).to_pylist() if row["id"] == first)
    return Preview(row["condition"], row["generated"], row["modality"], row["prompt"], row["seed"])


def _sketches(samples: Dataset, path: str) -> list[dict[str, Any]]:
    return [row for row in samples.part(path, ["id", "modality"]).to_pylist() if row["modality"] == "sketch"]


def write_preview(preview: Preview, bundle: Path) -> None:
    """Writes the reference image into a bundle's folder."""
    folder = bundle / FOLDER
    folder.mkdir()
    (folder / DRAWING).write_bytes(preview.drawing)
    (folder / PAINTED).write_bytes(preview.painted)
    request = {"modality": preview.modality, "prompt": preview.prompt, "seed": preview.seed}
    (folder / REQUEST).write_text(json.dumps(request, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_preview(bundle: Path) -> Preview | None:
    """Reads the reference image of a bundle; None if it has none, like a converted checkpoint."""
    folder = bundle / FOLDER
    if not folder.is_dir():
        return None
    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    return Preview((folder / DRAWING).read_bytes(), (folder / PAINTED).read_bytes(), **request)


def preview_error(pipeline: MMFacePipeline, recipe: Recipe, preview: Preview) -> float:
    """Paints the reference image again; returns the mean absolute difference of the pixels, 0 … 255."""
    registered = Image.open(BytesIO(preview.painted)).convert("RGB")
    painted = pipeline(
        preview.prompt,
        Image.open(BytesIO(preview.drawing)),
        preview.modality,
        height=registered.height,
        width=registered.width,
        num_inference_steps=recipe.sampling.num_inference_steps,
        **asdict(Guidance.of(recipe.sampling)),
        seeds=[preview.seed],
    )
    assert isinstance(painted, MMFacePipelineOutput)
    assert isinstance(painted.images, list)
    difference = np.asarray(painted.images[0], np.float64) - np.asarray(registered, np.float64)
    return float(np.abs(difference).mean())
