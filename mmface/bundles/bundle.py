"""Writes and reads bundles: a trained model as a folder with a diffusers pipeline, recipe, lineage and metrics (§8).

A bundle can be used without a registry: ``MMFacePipeline.from_pretrained(folder)`` loads it. A registered bundle also
has the files of :mod:`mmface.bundles.mlmodel`, so that MLflow loads and serves it. No file is pickled.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmface.bundles.model_card import model_card
from mmface.bundles.reference import Preview, read_preview, write_preview
from mmface.config import Recipe
from mmface.config.load import read_recipe
from mmface.errors import InputError, RegistryError
from mmface.model import MMFaceDiT
from mmface.networks.components import load_text_encoder, load_vae
from mmface.networks.vae import Autoencoder
from mmface.pipeline import MMFacePipeline
from mmface.sampling import make_scheduler

RECIPE, LINEAGE, METRICS, CARD = "recipe.yaml", "lineage.json", "metrics.json", "README.md"
MLMODEL, CODE, REQUIREMENTS, ENVIRONMENT = "MLmodel", "model.py", "requirements.txt", "python_env.yaml"
# Written by the registration (:mod:`mmface.bundles.mlmodel`).
OF_MLFLOW = {MLMODEL, CODE, REQUIREMENTS, ENVIRONMENT, "input_example.json", "serving_input_example.json"}
# Written by MLflow and Python into a local folder when MLflow loads the model from it.
_OF_LOADING = {"registered_model_meta", "__pycache__"}


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle.

    Attributes:
        version: number in the registry; empty for a bundle that does not come from it.
        preview: the reference image, if the bundle has one.
    """

    pipeline: MMFacePipeline
    version: str
    recipe: Recipe
    lineage: dict[str, Any]
    metrics: dict[str, float]
    preview: Preview | None = None


def load_transformer(folder: Path | str, **options: Any) -> MMFaceDiT:
    """Loads a transformer written by ``save_pretrained``, in fp32.

    Args:
        folder: the transformer's folder.
        options: further arguments of diffusers' ``from_pretrained``.

    Raises:
        InputError: the weights do not match the model's config exactly; names some of them.
    """
    model, report = MMFaceDiT.from_pretrained(
        folder, use_safetensors=True, torch_dtype=torch.float32, output_loading_info=True, **options
    )
    for what in ("missing", "unexpected", "mismatched"):
        keys = report[f"{what}_keys"]
        if keys:
            named = ", ".join(map(str, keys[:4]))
            raise InputError(f"{folder} is damaged: {len(keys)} {what} weights ({named})", field="transformer")
    return model  # type: ignore[no-any-return]


def build_pipeline(recipe: Recipe, transformer_folder: Path | str) -> MMFacePipeline:
    """Loads a trained transformer and the recipe's frozen components as a pipeline on the CPU, ready for inference."""
    transformer, parts = load_transformer(transformer_folder), recipe.components
    return assemble(recipe, transformer, load_vae(parts.vae), load_text_encoder(parts.text_encoder))


def assemble(recipe: Recipe, transformer: MMFaceDiT, vae: Autoencoder, text: tuple[Any, Any]) -> MMFacePipeline:
    """Builds the pipeline from loaded networks; ``text`` is tokenizer and text encoder.

    Raises:
        RecipeError: the networks do not fit each other.
    """
    tokenizer, text_encoder = text
    return MMFacePipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer.eval().requires_grad_(False),
        scheduler=make_scheduler(recipe.objective.name, recipe.sampling.sampler),
        sample_size=recipe.phases[-1].resolution,
        mask_resize=recipe.data.mask_resize,
        text_padding=recipe.data.text_padding,
        precision=recipe.sampling.precision,
    )


def write_bundle(
    pipeline: MMFacePipeline,
    folder: Path,
    recipe: Recipe,
    lineage: Mapping[str, Any],
    metrics: Mapping[str, float],
    preview: Preview | None = None,
    card: str | None = None,
) -> Path:
    """Writes a bundle to ``folder``. The same content gives the same :func:`bundle_fingerprint` on any machine.

    Args:
        lineage: plain values that lead back to the data: manifest URIs or fingerprints by stage, code version, run.
        metrics: results of the evaluation; values that are not finite are written as null.
        preview: the reference image, which a replica paints again before it serves the bundle.
        card: the model card; by default a short one, for a model that was not measured here.
    """
    pipeline.save_pretrained(folder, safe_serialization=True)
    for config in folder.rglob("*.json"):
        _forget_origin(config)
    (folder / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
    (folder / LINEAGE).write_text(_json(lineage), encoding="utf-8")
    (folder / METRICS).write_text(_json(_finite(metrics)), encoding="utf-8")
    (folder / CARD).write_text(card or model_card(recipe, lineage, metrics), encoding="utf-8")
    if preview is not None:
        write_preview(preview, folder)
    return folder


def read_bundle(folder: Path, version: str = "") -> Bundle:
    """Loads a bundle folder.

    Raises:
        RegistryError: the folder is not a complete bundle.
    """
    require_bundle(folder)
    metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    return Bundle(
        pipeline=MMFacePipeline.from_pretrained(folder, use_safetensors=True),
        version=version,
        recipe=read_recipe(str(folder / RECIPE)),
        lineage=json.loads((folder / LINEAGE).read_text(encoding="utf-8")),
        metrics={name: math.nan if value is None else float(value) for name, value in metrics.items()},
        preview=read_preview(folder),
    )


def require_bundle(folder: Path) -> None:
    """Raises RegistryError with the names of missing files if the folder is not a complete bundle."""
    missing = [name for name in ("model_index.json", RECIPE, LINEAGE, METRICS) if not (folder / name).is_file()]
    if missing:
        raise RegistryError(
            f"{folder} is not a complete bundle: {', '.join(missing)} missing; register it again", field="bundle"
        )


def bundle_fingerprint(folder: Path) -> str:
    """SHA-256 of the names and contents of the bundle's files, except those of MLflow's flavor."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name.partition("/")[0] not in OF_MLFLOW | _OF_LOADING:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()


def _forget_origin(config: Path) -> None:
    """Removes the path that a component was loaded from, because it would change the fingerprint."""
    tree = json.loads(config.read_text(encoding="utf-8"))
    if isinstance(tree, dict) and "_name_or_path" in tree:
        del tree["_name_or_path"]
        config.write_text(_json(tree), encoding="utf-8")


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}


def _json(tree: Mapping[str, Any]) -> str:
    return json.dumps(tree, indent=2, sort_keys=True) + "\n"
