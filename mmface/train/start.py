"""Builds the transformer that a phase starts from: the previous phase's average, ``train.start``, or random (§5)."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from mmface.bundles.bundle import load_transformer
from mmface.bundles.released import architecture, load_released, read_released, require_architecture
from mmface.bundles.weights import REGISTERED, SCRATCH, Weights, found_weights
from mmface.config import Recipe
from mmface.errors import InputError, RecipeError
from mmface.estimate.shapes import Shapes
from mmface.model import MMFaceDiT
from mmface.networks.components import component_identity, encoder_identity
from mmface.train.checkpoints.state import TRANSFORMER
from mmface.train.rows.sets import TrainingSet

COMPONENTS = "components.json"  # beside weights that only fit certain components


def build_transformer(recipe: Recipe, data: TrainingSet, previous: Path | None) -> MMFaceDiT:
    """The recipe's transformer in float32, with the channels and text width of the data.

    Args:
        previous: folder that holds the previous phase's ``transformer/``; without it ``recipe.train.start`` names the
            weights.

    Raises:
        RecipeError: the weights have another architecture, or cannot be found.
        InputError: the keys or shapes of a released checkpoint are not exactly those of the model.
    """
    wanted = {"in_channels": 2 * data.latent_channels, "text_embed_dim": data.text_width, **recipe.model.model_dump()}
    if previous is not None:
        return _load(Weights(previous / TRANSFORMER), wanted)
    if recipe.train.start != SCRATCH:
        with found_weights(recipe.train.start) as weights:
            _require_components(recipe, weights.path / COMPONENTS)
            return _load(weights, wanted)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training_seed)
        fresh: MMFaceDiT = MMFaceDiT(**wanted)
    return fresh


def check_start(recipe: Recipe) -> None:
    """Compares the architecture of the starting weights with the recipe; reads the shapes of the weights only.

    Registered models are skipped, because their files may be remote. Training compares them before its first step.

    Raises:
        RecipeError, InputError, RegistryError, ServiceError: see :func:`build_transformer`.
    """
    name = recipe.train.start
    if name == SCRATCH or name.startswith(REGISTERED):
        return
    with found_weights(name) as found:
        _require_components(recipe, found.path / COMPONENTS)
        if found.released:
            architecture_found = architecture(_shapes(found.path))
        else:
            architecture_found = json.loads((found.path / "config.json").read_text(encoding="utf-8"))
    require_architecture(architecture_found, {**recipe.model.model_dump(), **_widths(recipe)})


def record_components(recipe: Recipe, folder: Path) -> None:
    """Writes which VAE and text encoder weights were trained with, so that they are not used with others."""
    (folder / COMPONENTS).write_text(json.dumps(_identities(recipe), indent=1) + "\n", encoding="utf-8")


def _identities(recipe: Recipe) -> dict[str, str]:
    """What decides the meaning of latents and text: the VAE's encoder, and the text encoder."""
    components = recipe.components
    return {"vae": encoder_identity(components.vae), "text_encoder": component_identity(components.text_encoder)}


def _require_components(recipe: Recipe, record: Path) -> None:
    if not record.is_file():
        return
    trained = json.loads(record.read_text(encoding="utf-8"))
    for role, identity in _identities(recipe).items():
        if trained[role] != identity:
            message = (
                f"{recipe.train.start} was trained with another one than {getattr(recipe.components, role)}; "
                f"set train.start=scratch, or the {role} of the recipe that trained it"
            )
            raise RecipeError(message, field=f"components.{role}")


def _load(weights: Weights, wanted: dict[str, Any]) -> MMFaceDiT:
    if weights.released:
        return load_released(weights.path, wanted)
    model = load_transformer(weights.path, low_cpu_mem_usage=False)
    require_architecture(dict(model.config), wanted)
    return model


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    if file.suffix != ".safetensors":
        return {name: tuple(tensor.shape) for name, tensor in read_released(file).items()}
    with safe_open(file, "pt") as content:
        return {name: tuple(content.get_slice(name).get_shape()) for name in content.keys()}  # noqa: SIM118


def _widths(recipe: Recipe) -> dict[str, int]:
    """Arguments of the model that follow from the components whose shapes are known on this machine."""
    shapes, widths = Shapes(recipe), {}
    with suppress(InputError):
        widths["in_channels"] = 2 * shapes.latent(recipe.phases[0].resolution)[0]
    with suppress(InputError):
        widths["text_embed_dim"] = shapes.text_width
    return widths
