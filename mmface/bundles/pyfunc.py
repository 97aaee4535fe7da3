"""A bundle as a model of MLflow's pyfunc flavor, for ``mlflow.pyfunc.load_model`` and ``mlflow models serve``.

MLflow finds it through :mod:`mmface.bundle`; :mod:`mmface.bundles.mlmodel` writes its signature.
"""

from __future__ import annotations

import base64
import copy
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel
from PIL import Image
from torch import Tensor

from mmface.bundles.bundle import Bundle, read_bundle
from mmface.bundles.mlmodel import BUNDLE, COLUMNS
from mmface.config.guidance import Guidance
from mmface.data.sources import open_image
from mmface.errors import InputError, MMFaceError
from mmface.imaging.labels import mask_from_png
from mmface.imaging.pixels import MaskResize, mask_to_tensor, sketch_to_tensor
from mmface.model import MODALITIES
from mmface.networks.components import accelerator
from mmface.pipeline import MMFacePipelineOutput


class PyfuncModel:
    """Paints the rows of data frames with a loaded bundle, on the GPU if this process sees one."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        bundle.pipeline.to(accelerator())

    def predict(self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> list[str]:
        """Paints one image per row; returns base64 PNGs. An image does not depend on the other rows.

        Args:
            model_input: columns ``prompt``, ``modality`` (mask or sketch), ``condition`` (base64 PNG) and ``seed``.
            params: ``num_inference_steps``, ``guidance_scale``, ``drawing_guidance_scale``, ``guidance_start``,
                ``guidance_end``, ``sampler`` and ``negative_prompt``; the recipe of the bundle has the values of those
                that are missing or None.

        Raises:
            MlflowException: a column or a param is wrong; INVALID_PARAMETER_VALUE, which a server answers with 400.
        """
        given = {name: value for name, value in (params or {}).items() if value is not None}
        try:
            return list(self._paint(_rows(model_input), given))
        except MMFaceError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error

    def _paint(self, rows: Sequence[Mapping[str, Any]], params: Mapping[str, Any]) -> Iterator[str]:
        recipe, pipeline = self.bundle.recipe, self.bundle.pipeline
        size, sampling, batch = recipe.phases[-1].resolution, recipe.sampling, recipe.evaluate.batch_size
        if "sampler" in params:
            pipeline = copy.copy(pipeline)  # requests may run at once, so the shared pipeline keeps its sampler
            pipeline.set_sampler(params["sampler"])
        # All drawings are checked before the first image is painted.
        drawings = [_drawing(i, row, size, pipeline.config["mask_resize"]) for i, row in enumerate(rows)]
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            painted = pipeline(
                prompt=[row["prompt"] for row in part],
                condition=torch.stack(drawings[start : start + batch]),
                modality=[row["modality"] for row in part],
                negative_prompt=params.get("negative_prompt", ""),
                seeds=[row["seed"] for row in part],
                num_inference_steps=params.get("num_inference_steps", sampling.num_inference_steps),
                **asdict(Guidance.of(sampling, SimpleNamespace(**params))),
            )
            assert isinstance(painted, MMFacePipelineOutput)
            yield from (base64.b64encode(_png(image)).decode() for image in painted.images)


class BundleModel(PythonModel):
    """The model that ``model.py`` of a registered bundle hands to MLflow."""

    def load_context(self, context: Any) -> None:
        """Loads the bundle from the folder that MLflow has fetched."""
        self.model = PyfuncModel(read_bundle(Path(context.artifacts[BUNDLE])))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> list[str]:
        """See :meth:`PyfuncModel.predict`."""
        return self.model.predict(model_input, params)


def load_pyfunc(path: str) -> PyfuncModel:
    """Loads a version whose ``MLmodel`` names :mod:`mmface.bundle` as its loader, as those of earlier releases do."""
    return PyfuncModel(read_bundle(Path(path)))


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise InputError(f"missing; give the columns {', '.join(COLUMNS)}", field=missing[0])
    rows = frame.to_dict(orient="records")
    if not rows:
        raise InputError("the data frame has no rows; give one for each image", field="prompt")
    for i, row in enumerate(rows):
        if not isinstance(row["prompt"], str):
            raise InputError(f"row {i} is no text: {row['prompt']!r}", field="prompt")
    return [{**row, "seed": _seed(i, row["seed"])} for i, row in enumerate(rows)]


def _seed(index: int, seed: Any) -> int:
    try:
        return int(seed)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"row {index} has no whole number: {seed!r}", field="seed") from None


def _drawing(index: int, row: Mapping[str, Any], size: int, mask_resize: MaskResize) -> Tensor:
    """The row's drawing as a tensor [3, size, size]."""
    if row["modality"] not in MODALITIES:
        message = f"row {index} must be one of {', '.join(MODALITIES)}, got {row['modality']!r}"
        raise InputError(message, field="modality")
    try:
        data = base64.b64decode(row["condition"], validate=True)
    except (TypeError, ValueError):
        raise InputError(f"row {index} is not base64; encode the bytes of a PNG file", field="condition") from None
    try:
        if row["modality"] == "mask":
            return mask_to_tensor(mask_from_png(data), size, mask_resize)
        return sketch_to_tensor(open_image(data), size)
    except InputError as error:
        raise InputError(f"row {index}: {error.message}", field="condition") from None


def _png(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()
