"""A released checkpoint as a bundle: the same weights with the components they were trained with (§4, §8)."""

from __future__ import annotations

import os
import re
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mmface.bundles.bundle import assemble, write_bundle
from mmface.bundles.released import load_released
from mmface.bundles.weights import file_hash, found_weights
from mmface.config import Recipe
from mmface.errors import InputError, RecipeError
from mmface.networks.components import component_identity, load_text_encoder, load_vae
from mmface.networks.hub import pin_components
from mmface.networks.vae import latent_channels

# How the released models were fed (§4, §6).
_FED = {"model.text_rope": "zero", "data.mask_resize": "lanczos", "data.text_padding": "exact"}
# The authors' folders say what no tensor tells: pixels, and ``rfm`` for rectified flow.
_FOLDER = re.compile(r"dit-unified-\w+-vae-(\d+)(-rfm)?$")


def convert(source: str, recipe: Recipe, out: Path) -> Path:
    """Writes the bundle ``out``, which is there whole or not at all.

    Args:
        source: a released checkpoint; see :mod:`mmface.bundles.weights`.
        recipe: objective, resolution (of its last phase), architecture and components of these weights.
        out: a folder that does not exist yet.

    Raises:
        InputError: ``out`` exists, ``source`` is a bundle already, or its keys or shapes are not the model's.
        RecipeError: the recipe is not that of these weights, or a component's hub id has no commit; names the key.
    """
    if out.exists():
        raise InputError(f"{out} exists already; name a new folder", field="--out")
    recipe = pin_components(recipe, ("vae", "text_encoder"))
    with found_weights(source, "FOLDER") as weights:
        if not weights.released:
            raise InputError(f"{weights.path} needs no conversion: it is a transformer with its config", field="FOLDER")
        require_recipe(weights.path, recipe)
        vae, text = load_vae(recipe.components.vae), load_text_encoder(recipe.components.text_encoder)
        wanted = {"in_channels": 2 * latent_channels(vae), "text_embed_dim": int(text[1].config.hidden_size)}
        transformer = load_released(weights.path, {**wanted, **recipe.model.model_dump()})
        pipeline = assemble(recipe, transformer.eval().requires_grad_(False), vae, text)
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".convert-") as work:
            write_bundle(pipeline, Path(work) / "bundle", recipe, lineage(weights.path, recipe), {})
            os.replace(Path(work) / "bundle", out)
    return out


def require_recipe(file: Path, recipe: Recipe) -> None:
    """Compares what the tensors do not tell.

    Raises:
        RecipeError: names the key that differs.
    """
    settings: dict[str, Any] = {**recipe.model.model_dump(), **recipe.data.model_dump()}
    for field, value in _FED.items():
        if settings[field.partition(".")[2]] != value:
            remedy = f"add --set {field}={value}, or take a released-* recipe"
            raise RecipeError(f"released weights were trained with {value}; {remedy}", field=field)
    folder = next((found for part in file.absolute().parts if (found := _FOLDER.match(part))), None)
    if folder is None:
        return
    last = len(recipe.phases) - 1
    for field, held, said in (
        ("objective.name", "flow" if folder[2] else "ddpm", recipe.objective.name),
        (f"phases.{last}.resolution", int(folder[1]), recipe.phases[last].resolution),
    ):
        if held != said:
            raise RecipeError(f"{folder[0]} holds weights of {held}, the recipe says {said}", field=field)


def lineage(file: Path, recipe: Recipe) -> dict[str, str]:
    """Where the bundle comes from: the file by its bytes, and the frozen components."""
    parts = recipe.components
    return {
        "origin": "converted from a released checkpoint",
        "file": "/".join(file.absolute().parts[-3:]),
        "sha256": file_hash(file),
        "vae": component_identity(parts.vae),
        "text_encoder": component_identity(parts.text_encoder),
        "code_version": version("mmface"),
    }
