"""The trials of a study: the paper's ablation (Model-1 … Model-5), or a grid over recipe keys, from several seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from mmface.config import Recipe
from mmface.config.load import parse_override
from mmface.errors import RecipeError

SEEDS = ("seed", "train.seed")
SWITCHES = ("modality_embedder", "dual_stream", "rope")  # what Model-2, Model-3 and Model-4 add, in this order
HELD_OUT = "held_out/loss"


@dataclass(frozen=True)
class Trial:
    """One training of a study.

    Attributes:
        variant: what is trained, such as ``Model-3`` or ``train.ema_decay=0.99``.
        seed: ``train.seed``.
        changes: values of recipe keys in which it differs from the base recipe, without the seed.
    """

    variant: str
    seed: int
    changes: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Variant and seed."""
        return f"{self.variant}, seed {self.seed}"

    @property
    def overrides(self) -> list[str]:
        """The changes and the seed as ``KEY=VALUE``."""
        return [f"{key}={json.dumps(value)}" for key, value in {**self.changes, "train.seed": self.seed}.items()]


@dataclass(frozen=True)
class Outcome:
    """What became of a trial.

    Attributes:
        held_out: the last held-out loss of training; None if none was measured.
        figures: metrics of its bundle; empty unless the trial was finished.
        stopped: the optimizer step after which it was stopped early; None if it was not.
        failed: the error that ended it; empty without one.
    """

    trial: Trial
    held_out: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    stopped: int | None = None
    failed: str = ""

    def figure(self, name: str) -> float | None:
        """A figure by name, the held-out loss too; None if it was not measured."""
        return self.held_out if name == HELD_OUT else self.figures.get(name)


def ablation(recipe: Recipe, seeds: int = 1, vae: str | None = None) -> list[Trial]:
    """The paper's Model-1 … Model-5: a plain DiT, to which each model adds one part; Model-5 is the recipe's own.

    Args:
        seeds: trainings of each model; their seeds count from the recipe's.
        vae: VAE of Model-1 … Model-4 (the paper: that of SD 2.1); without it they have the recipe's, and Model-5 equals
            Model-4.

    Raises:
        RecipeError: the recipe switches a part of the model off already.
    """
    off = [f"model.{name}" for name in SWITCHES if not getattr(recipe.model, name)]
    if off:
        raise RecipeError("false already; an ablation needs a recipe of the whole model", field=off[0])
    variants = []
    for number in range(len(SWITCHES) + 1):
        changes: dict[str, Any] = {f"model.{name}": i < number for i, name in enumerate(SWITCHES)}
        variants.append((f"Model-{number + 1}", changes | ({"components.vae": vae} if vae else {})))
    variants.append(("Model-5", {f"model.{name}": True for name in SWITCHES}))
    return [
        Trial(name, seed, {"name": f"{recipe.name}-{name.lower()}", **changes})
        for name, changes in variants
        for seed in _seeds(recipe, seeds)
    ]


def sweep(recipe: Recipe, grid: Iterable[str], seeds: int = 1) -> list[Trial]:
    """A trial for every combination of the values of ``grid``.

    Args:
        grid: ``KEY=[VALUE, …]`` of one recipe key each.
        seeds: trainings of each combination; their seeds count from the recipe's.

    Raises:
        RecipeError: an axis has another form, or names a seed or a key twice.
    """
    axes: dict[str, list[Any]] = {}
    for axis in grid:
        key, values = parse_override(axis, "--grid")
        if not isinstance(values, list) or not values:
            raise RecipeError(f"expected KEY=[VALUE, …], got {axis!r}", field="--grid")
        if key in SEEDS:
            raise RecipeError(f"{key} is not an axis; give --seeds N for several seeds", field="--grid")
        if key in axes or len({json.dumps(value, sort_keys=True) for value in values}) < len(values):
            raise RecipeError(f"{key} or one of its values is given twice; give each once", field="--grid")
        axes[key] = values
    return [
        Trial(", ".join(f"{key}={json.dumps(value)}" for key, value in changes.items()), seed, changes)
        for changes in (dict(zip(axes, values, strict=True)) for values in product(*axes.values()))
        for seed in _seeds(recipe, seeds)
    ]


def _seeds(recipe: Recipe, count: int) -> range:
    if count < 1:
        raise RecipeError(f"at least 1 is needed, not {count}", field="--seeds")
    return range(recipe.training_seed, recipe.training_seed + count)
