"""The weights a phase starts from: the previous phase's average, what ``train.start`` names, or drawn ones (§5)."""

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
from mmface.errors import InputError
from mmface.estimate.shapes import Shapes
from mmface.model import MMFaceDiT
from mmface.train.checkpoints.state import TRANSFORMER
from mmface.train.rows.sets import TrainingSet


def build_transformer(recipe: Recipe, data: TrainingSet, previous: Path | None) -> MMFaceDiT:
    """The recipe's transformer for the channels and text width of the data, in float32.

    Args:
        previous: folder that holds the previous phase's ``transformer/``; without it ``recipe.train.start`` says
            where the weights come from.

    Raises:
        RecipeError: the weights are of another architecture, or there are none.
        InputError: a released checkpoint whose keys or shapes are not exactly the model's.
    """
    wanted = {"in_channels": 2 * data.latent_channels, "text_embed_dim": data.text_width, **recipe.model.model_dump()}
    if previous is not None:
        return _load(Weights(previous / TRANSFORMER), wanted)
    if recipe.train.start != SCRATCH:
        with found_weights(recipe.train.start) as weights:
            return _load(weights, wanted)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        fresh: MMFaceDiT = MMFaceDiT(**wanted)
    return fresh


def check_start(recipe: Recipe) -> None:
    """Compares the weights that training would start from with the recipe, reading their sizes alone.

    A registered model is only looked up: its files may be far away. Training compares it before its first step.

    Raises:
        RecipeError, InputError, RegistryError, ServiceError: see :func:`build_transformer`.
    """
    name = recipe.train.start
    if name == SCRATCH or name.startswith(REGISTERED):
        return
    with found_weights(name) as found:
        if found.released:
            told = architecture(_shapes(found.path))
        else:
            told = json.loads((found.path / "config.json").read_text(encoding="utf-8"))
    require_architecture(told, {**recipe.model.model_dump(), **_widths(recipe)})


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
    """What follows from the components, as far as their shapes are known here."""
    shapes, widths = Shapes(recipe), {}
    with suppress(InputError):
        widths["in_channels"] = 2 * shapes.latent(recipe.phases[0].resolution)[0]
    with suppress(InputError):
        widths["text_embed_dim"] = shapes.text_width
    return widths
