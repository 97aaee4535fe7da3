"""A trained model as a folder (§8): a diffusers pipeline with its recipe, lineage, metrics and model card.

The folder needs no MMFace registry to be used: ``MMFacePipeline.from_pretrained(folder)`` loads it, and once an
``MLmodel`` file lies beside it, ``mlflow.pyfunc.load_model`` does too, by naming this module (no pickle anywhere).
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mmface.bundles.reference import Preview, read_preview, write_preview
from mmface.config import Recipe
from mmface.config.load import read_recipe
from mmface.errors import InputError, RegistryError
from mmface.imaging.labels import mask_from_png
from mmface.imaging.pixels import mask_to_tensor, sketch_to_tensor
from mmface.model import MMFaceDiT
from mmface.networks.components import load_text_encoder, load_vae
from mmface.networks.vae import Autoencoder
from mmface.pipeline import MMFacePipeline, MMFacePipelineOutput
from mmface.sampling import make_scheduler

RECIPE, LINEAGE, METRICS, CARD, MLMODEL = "recipe.yaml", "lineage.json", "metrics.json", "README.md", "MLmodel"


@dataclass(frozen=True)
class Bundle:
    """A loaded model with what is known about it.

    ``version`` is the registry's, empty outside of it; ``preview`` a picture it was registered with, if it was.
    """

    pipeline: MMFacePipeline
    version: str
    recipe: Recipe
    lineage: dict[str, Any]
    metrics: dict[str, float]
    preview: Preview | None = None


def load_transformer(folder: Path | str, **options: Any) -> MMFaceDiT:
    """A transformer as ``save_pretrained`` wrote it, in fp32; ``options`` of diffusers' ``from_pretrained``.

    Raises:
        InputError: its weights are not exactly those of the model that its config describes; names some.
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
    """The pipeline of a trained transformer and the recipe's frozen components, on the CPU and ready for inference."""
    transformer, parts = load_transformer(transformer_folder), recipe.components
    return assemble(recipe, transformer, load_vae(parts.vae), load_text_encoder(parts.text_encoder))


def assemble(recipe: Recipe, transformer: MMFaceDiT, vae: Autoencoder, text: tuple[Any, Any]) -> MMFacePipeline:
    """The pipeline of loaded networks; ``text`` is tokenizer and text encoder.

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
) -> Path:
    """Writes the bundle into ``folder``; equal content gives an equal :func:`bundle_fingerprint` on any machine.

    Args:
        lineage: plain values that lead back to the data: manifest URIs or fingerprints by stage, code version, run.
        metrics: figures of the evaluation; those that are not finite are written as null.
        preview: what serving compares its own painting with before it takes the model.
    """
    pipeline.save_pretrained(folder, safe_serialization=True)
    for config in folder.rglob("*.json"):
        _forget_origin(config)
    (folder / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
    (folder / LINEAGE).write_text(_json(lineage), encoding="utf-8")
    (folder / METRICS).write_text(_json(_finite(metrics)), encoding="utf-8")
    (folder / CARD).write_text(_card(recipe, lineage, metrics), encoding="utf-8")
    if preview is not None:
        write_preview(preview, folder)
    return folder


def read_bundle(folder: Path, version: str = "") -> Bundle:
    """Loads a bundle folder.

    Raises:
        RegistryError: the folder is not a complete bundle.
    """
    missing = [name for name in ("model_index.json", RECIPE, LINEAGE, METRICS) if not (folder / name).is_file()]
    if missing:
        raise RegistryError(
            f"{folder} is no complete bundle: {', '.join(missing)} missing; register it again", field="bundle"
        )
    metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    return Bundle(
        pipeline=MMFacePipeline.from_pretrained(folder, use_safetensors=True),
        version=version,
        recipe=read_recipe(str(folder / RECIPE)),
        lineage=json.loads((folder / LINEAGE).read_text(encoding="utf-8")),
        metrics={name: math.nan if value is None else float(value) for name, value in metrics.items()},
        preview=read_preview(folder),
    )


def bundle_fingerprint(folder: Path) -> str:
    """SHA-256 over the names and contents of the bundle's files; MLflow's own ``MLmodel`` does not count."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MLMODEL:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


class PyfuncModel:
    """What ``mlflow.pyfunc.load_model(...).predict`` calls."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> list[str]:
        """One base64 PNG a row.

        Args:
            model_input: data frame with columns ``prompt``, ``modality`` (mask or sketch), ``condition`` (base64 PNG)
                and ``seed``.
            params: unused; MLflow passes it.
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
    """MLflow's entry point into this module."""
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


def _forget_origin(config: Path) -> None:
    """Drops the path a component was loaded from: it says nothing elsewhere and would change the fingerprint."""
    tree = json.loads(config.read_text(encoding="utf-8"))
    if isinstance(tree, dict) and "_name_or_path" in tree:
        del tree["_name_or_path"]
        config.write_text(_json(tree), encoding="utf-8")


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}


def _json(tree: Mapping[str, Any]) -> str:
    return json.dumps(tree, indent=2, sort_keys=True) + "\n"


def _card(recipe: Recipe, lineage: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
    figures = "\n".join(f"| {name} | {value:.4g} |" for name, value in sorted(metrics.items()))
    sources = "\n".join(
        f"- {name}: `{value}`" for name, value in lineage.items() if isinstance(value, str | int | float)
    )
    parts = "\n".join(f"- {role}: `{name}`" for role, name in recipe.components.model_dump().items() if name)
    size = recipe.phases[-1].resolution
    return CARD_TEXT.format(
        name=recipe.name, objective=recipe.objective.name, size=size, parts=parts, figures=figures, sources=sources
    )


CARD_TEXT = """---
library_name: diffusers
tags: [mmface-dit, face-generation, conditional-generation]
---
# {name}

Paints a {size} x {size} face that follows a prompt and a drawing (a 19-label CelebAMask-HQ mask or a sketch) at once.
The method is MMFace-DiT (arXiv 2603.29029); trained with the {objective} objective.

```python
from mmface.pipeline import MMFacePipeline, MMFacePipelineOutput
pipeline = MMFacePipeline.from_pretrained("this folder")
```

Pictures it makes are synthetic and must be labelled as such. Do not use it to imitate a real person.

## Components

{parts}

## Figures on held-out rows

| metric | value |
|---|---|
{figures}

## Lineage

{sources}

The whole of it is in `lineage.json`; every setting is in `recipe.yaml`.
"""
