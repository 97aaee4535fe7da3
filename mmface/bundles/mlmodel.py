"""Writes the files with which MLflow loads and serves a registered bundle: models from code, nothing pickled (§8).

They lie beside the files of the bundle and do not belong to its fingerprint. ``MLmodel`` holds signature and flavor,
``model.py`` is the code that MLflow runs to load the model, and ``requirements.txt`` with ``python_env.yaml`` says what
another machine must install.
"""

from __future__ import annotations

import base64
import logging
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from packaging.version import Version

from mmface.bundles.bundle import CODE, ENVIRONMENT, MLMODEL, REQUIREMENTS
from mmface.bundles.reference import Preview, read_preview
from mmface.data.portraits import draw
from mmface.imaging.labels import mask_to_png

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

log = logging.getLogger(__name__)

LOADER = "mlflow.pyfunc.loaders.code_model"
BUNDLE = "bundle"  # the artifact that model.py gets from MLflow: the folder itself
SCRIPT = '''"""The model of this folder: MLflow runs this script to load it."""

from mlflow.models import set_model

from mmface.bundle import BundleModel

set_model(BundleModel())
'''
# What painting needs besides mmface, pinned because the dependencies of mmface are ranges.
PINNED = ("mlflow", "mmface", "diffusers", "numpy", "pandas", "pillow", "safetensors", "torch", "transformers")
EXAMPLE_SIDE = 128
COLUMNS = {"prompt": "string", "modality": "string", "condition": "string", "seed": "long"}
PARAMS: dict[str, tuple[str, Any]] = {  # type and default; None: as the bundle's recipe says
    "num_inference_steps": ("long", None),
    "guidance_scale": ("double", None),
    "drawing_guidance_scale": ("double", None),
    "guidance_start": ("double", None),
    "guidance_end": ("double", None),
    "sampler": ("string", None),
    "negative_prompt": ("string", ""),
}


def write_model_files(bundle: Path, folder: Path, run_id: str, place: str) -> None:
    """Writes the files that make a bundle a model of MLflow's pyfunc flavor.

    Args:
        bundle: the bundle's folder; only read.
        folder: where the files are written.
        run_id: the MLflow run that stores the bundle.
        place: the bundle's folder among the artifacts of the run.
    """
    import pandas as pd
    from mlflow.models import Model
    from mlflow.models.utils import _save_example
    from mlflow.pyfunc import add_to_model

    model = Model(artifact_path=place, run_id=run_id, signature=signature())
    _save_example(model, pd.DataFrame([example_row(bundle)]), str(folder))
    add_to_model(  # type: ignore[no-untyped-call]
        model,
        loader_module=LOADER,
        model_code_path=CODE,
        python_env=ENVIRONMENT,
        artifacts={BUNDLE: {"path": ".", "uri": "."}},
    )
    model.save(str(folder / MLMODEL))
    (folder / CODE).write_text(SCRIPT, encoding="utf-8")
    (folder / REQUIREMENTS).write_text("".join(f"{line}\n" for line in requirements()), encoding="utf-8")
    environment = {
        "python": ".".join(map(str, sys.version_info[:3])),
        "build_dependencies": ["pip", "setuptools", "wheel"],
        "dependencies": [f"-r {REQUIREMENTS}"],
    }
    (folder / ENVIRONMENT).write_text(yaml.safe_dump(environment, sort_keys=False), encoding="utf-8")


def signature() -> ModelSignature:
    """What :class:`mmface.bundles.pyfunc.BundleModel` takes and returns."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    return ModelSignature(
        inputs=Schema([ColSpec(kind, name) for name, kind in COLUMNS.items()]),
        outputs=Schema([ColSpec("string")]),
        params=ParamSchema([ParamSpec(name, kind, default) for name, (kind, default) in PARAMS.items()]),
    )


def example_row(bundle: Path) -> dict[str, str | int]:
    """A request that the model can paint: the bundle's reference image, or the mask of a drawn portrait without one.

    A damaged reference image does not stop the registration: replicas refuse such a version and say why.
    """
    try:
        preview = read_preview(bundle)
    except (OSError, ValueError, TypeError) as error:
        log.warning("the reference image of the bundle is damaged (%s); the example is a drawn portrait's mask", error)
        preview = None
    if preview is None:
        drawn = draw(0, EXAMPLE_SIDE)
        preview = Preview(mask_to_png(drawn.mask), b"", "mask", drawn.captions[0], 0)
    return {
        "prompt": preview.prompt,
        "modality": preview.modality,
        "condition": base64.b64encode(preview.drawing).decode(),
        "seed": preview.seed,
    }


def requirements() -> list[str]:
    """Pinned packages by name and public version, without addresses, paths and local versions such as ``+cpu``."""
    return [f"{name}=={Version(version(name)).public}" for name in PINNED]
