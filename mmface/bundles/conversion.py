"""Converts a released checkpoint to a bundle: the same weights with the components of their training (§4, §8)."""

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

# Recipe keys that all released models were trained with (§4, §6).
_TRAINED_WITH = {"model.text_rope": "zero", "data.mask_resize": "lanczos", "data.text_padding": "exact"}
# The name of the authors' folder has what the tensors do not: the resolution, and ``rfm`` for rectified flow.
_FOLDER = re.compile(r"dit-unified-\w+-vae-(\d+)(-rfm)?$")


def convert(source: str, recipe: Recipe, out: Path) -> Path:
    """Writes the bundle ``out`` atomically: after an error the folder does not exist.

    Args:
        source: a released checkpoint; see :mod:`mmface.bundles.weights`.
        recipe: must describe these weights: objective, resolution of the last phase, architecture, components.
        out: a folder that does not exist yet.

    Raises:
        InputError: ``out`` exists, ``source`` is already a bundle, or its keys or shapes are not those of the model.
        RecipeError: the recipe does not describe these weights, or a component's hub id has no commit; names the key.
    """
    if out.exists():
        raise InputError(f"{out} already exists; name a new folder", field="--out")
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
    """Compares the recipe with the facts that the tensors do not show: positions, mask resizing, padding, objective.

    Raises:
        RecipeError: names the key that differs.
    """
    settings: dict[str, Any] = {**recipe.model.model_dump(), **recipe.data.model_dump()}
    for field, value in _TRAINED_WITH.items():
        if settings[field.partition(".")[2]] != value:
            remedy = f"add --set {field}={value}, or use a released-* recipe"
            raise RecipeError(f"released weights were trained with {value}; {remedy}", field=field)
    folder = next((found for part in file.absolute().parts if (found := _FOLDER.match(part))), None)
    if folder is None:
        return
    last = len(recipe.phases) - 1
    for field, trained, wanted in (
        ("objective.name", "flow" if folder[2] else "ddpm", recipe.objective.name),
        (f"phases.{last}.resolution", int(folder[1]), recipe.phases[last].resolution),
    ):
        if trained != wanted:
            message = f"{folder[0]} holds weights of {trained}, but the recipe says {wanted}; set it to {trained}"
            raise RecipeError(message, field=field)


def lineage(file: Path, recipe: Recipe) -> dict[str, str]:
    """The lineage of the bundle: name and hash of the file, and the frozen components."""
    parts = recipe.components
    return {
        "origin": "converted from a released checkpoint",
        "file": "/".join(file.absolute().parts[-3:]),
        "sha256": file_hash(file),
        "vae": component_identity(parts.vae),
        "text_encoder": component_identity(parts.text_encoder),
        "code_version": version("mmface"),
    }
