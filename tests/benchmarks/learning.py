"""Measures what helps training: changes one setting at a time, with several seeds, and compares the held-out error.

Every run trains a small transformer on the same drawn portraits. The squared error of the average's predictions is
measured on held-out rows with fixed noise at eight times (``held_out/mse``). Flow and DDPM predict different targets,
so their errors are not compared. Prints mean and range over the seeds. Finished runs are kept in ``--home`` and not run
again.

The first group of runs is at the small size; ``--steps 0`` skips it. The second group ends at the large size, after
``--first`` steps at the small size, half as many, or none, all with equal FLOPs; ``--large-steps 0`` skips it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from mmface.config import Recipe
from mmface.datasets.dataset import open_dataset
from mmface.estimate.shapes import Shapes
from mmface.store import Store
from mmface.train.checkpoints.state import TRANSFORMER, TrainState
from mmface.train.hooks import Hooks
from mmface.train.loop import train_phase
from mmface.train.rows.sets import TrainingSet, load_sets
from tests.benchmarks._common import ORDER, folder, parse, recipe_of, run_job

ERROR = "held_out/mse"
DDPM = "objective={name: ddpm}"


@dataclass(frozen=True)
class Variant:
    """One setting to measure.

    Attributes:
        compared: name of the variant to compare with; its own name for a reference.
        settings: overrides of the recipe.
    """

    name: str
    compared: str
    settings: tuple[str, ...] = ()


VARIANTS = (
    Variant("flow", "flow"),
    Variant("flow, uniform t", "flow", ("objective.timestep_sampling=uniform",)),
    Variant("flow, text rope zero", "flow", ("model.text_rope=zero",)),
    Variant("flow, no rope", "flow", ("model.rope=false",)),
    Variant("flow, no modality embedder", "flow", ("model.modality_embedder=false",)),
    Variant("flow, single stream", "flow", ("model.dual_stream=false",)),
    Variant("flow, masked padding", "flow", ("data.text_padding=masked",)),
    Variant("ddpm, Min-SNR 5", "ddpm, unweighted", (DDPM,)),
    Variant("ddpm, unweighted", "ddpm, unweighted", ("objective={name: ddpm, min_snr_gamma: null}",)),
)


def main() -> None:
    given = parse(__doc__, portraits=2000, small=64, large=128, steps=600, large_steps=416, first=200, seeds=3)
    with folder(given.home) as place:
        study = Study(place, given)
        for seed in range(given.seeds):
            for variant in VARIANTS if given.steps else ():
                study.run(variant, seed)
            for first in study.firsts:
                study.progressive(first, seed)
        print_table(study, given)


class Study:
    """Runs the variants and keeps their results.

    Args:
        place: folder for datasets and results.
        given: the options: number of portraits, sizes, steps at each size.
    """

    def __init__(self, place: Path, given: argparse.Namespace) -> None:
        self.place, self.given, self.sizes = place, given, (given.small, given.large)
        self.firsts = (given.first, given.first // 2, 0) if given.large_steps else ()
        self.sets: dict[tuple[int, str], tuple[TrainingSet, TrainingSet | None]] = {}

    def settings(self, *more: str) -> list[str]:
        """Overrides of the demo recipe."""
        steps = max(1, self.given.steps)
        phases = "phases=[" + ", ".join(
            f"{{resolution: {size}, steps: {steps}, batch_size: 16, learning_rate: 5.0e-4, warmup_steps: 50}}"
            for size in self.sizes
        )
        sizes = ("model.hidden_size=192", "model.depth=6", "model.num_heads=6")
        watch = ("watch={held_out_rows: 64, held_out_every: 100}", "train.log_every=1000000")
        drawn = f"portraits={{n: {self.given.portraits}, size: {self.given.large}}}"
        return [drawn, "data.workers=2", phases + "]", *sizes, *watch, *more]

    def data(self, size: int, padding: str) -> tuple[TrainingSet, TrainingSet | None]:
        """Training and held-out rows; the first call runs the jobs that prepare them."""
        if (size, padding) not in self.sets:
            made = self._prepare(padding)
            latents, text = open_dataset(made[f"latents-{size}"]), open_dataset(made["text"])
            self.sets[size, padding] = load_sets(latents, text, 64)
        return self.sets[size, padding]

    def _prepare(self, padding: str) -> dict[str, str]:
        home, given = Store(self.place / "home"), self.settings(f"data.text_padding={padding}")
        drawn = run_job("portraits", home, given, {})
        given.append(
            f"sources=[{{name: portraits, images: {drawn}/images, masks: {drawn}/masks, "
            f"captions: {drawn}/captions.jsonl}}]"
        )
        made: dict[str, str] = {}
        for stage in ORDER:
            run_job(stage, home, given, made)
        # The latents job prepares both resolutions, but `run_job` returns only the first.
        from mmface import plan

        for size in self.sizes:
            identity = plan.latents(recipe_of(given), size, made["images"], made["conditions"])
            made[f"latents-{size}"] = home.child(identity.key).uri
        return made

    def run(self, variant: Variant, seed: int) -> None:
        """Trains one variant at the small size."""
        recipe = recipe_of(self.settings(*variant.settings, f"seed={seed}"))
        self._measure(self._result(variant.name, seed), lambda: self._train(recipe, 0))

    def cost_of_small(self) -> float:
        """FLOPs of a step at the small size, as a fraction of a step at the large size."""
        shapes = Shapes(recipe_of(self.settings()))
        small, large = (shapes.transformer_flops(size) for size in self.sizes)
        return small / large

    def progressive(self, first: int, seed: int) -> None:
        """Trains ``first`` steps at the small size, then spends the remaining FLOPs on steps at the large size."""
        small, large = self.sizes
        second = self.given.large_steps - round(first * self.cost_of_small())
        phases = (
            f"{{resolution: {small}, steps: {first or 1}, batch_size: 16, learning_rate: 5.0e-4, "
            "final_learning_rate: 3.0e-4, warmup_steps: 50}",
            f"{{resolution: {large}, steps: {second}, batch_size: 16, learning_rate: 5.0e-4, "
            f"warmup_steps: {20 if first else 50}}}",
        )
        recipe = recipe_of(self.settings(f"phases=[{', '.join(phases)}]", f"seed={seed}"))

        def both() -> TrainState:
            if not first:
                return self._train(recipe, 1)
            with tempfile.TemporaryDirectory() as weights:
                self._train(recipe, 0).ema.module.save_pretrained(Path(weights) / TRANSFORMER)
                return self._train(recipe, 1, Path(weights))

        self._measure(self._result(progressive_name(large, first), seed), both)

    def _train(self, recipe: Recipe, phase: int, previous: Path | None = None) -> TrainState:
        data, held_out = self.data(recipe.phases[phase].resolution, recipe.data.text_padding)
        hooks = Hooks(lambda entry: None, lambda state: None)
        return train_phase(recipe, phase, data, hooks=hooks, held_out=held_out, previous=previous)

    def _measure(self, result: Path, train: Callable[[], TrainState]) -> None:
        """Trains and writes the errors to ``result``, unless the file exists."""
        if result.exists():
            return
        state = train()
        curve = {int(entry["step"]): entry[ERROR] for entry in state.history if ERROR in entry}
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_text(json.dumps(curve))
        print(f"     {result.stem}: {curve[state.step]:.4f} after {state.step} steps", flush=True)

    def curves(self, name: str, seeds: int) -> Iterator[dict[int, float]]:
        """Yields the error by step for each seed."""
        for seed in range(seeds):
            curve = json.loads(self._result(name, seed).read_text())
            yield {int(step): error for step, error in curve.items()}

    def _result(self, name: str, seed: int) -> Path:
        given = self.given
        numbers = (given.portraits, given.small, given.large, given.steps, given.large_steps)
        runs = f"results-{'-'.join(map(str, numbers))}"
        return self.place / runs / f"{name.replace(' ', '-').replace(',', '')}-{seed}.json"


def progressive_name(size: int, first: int) -> str:
    """Name of a run that ends at ``size`` after ``first`` steps at the small size."""
    return f"{size} px after {first} steps" if first else f"{size} px from nothing"


def print_table(study: Study, given: argparse.Namespace) -> None:
    """Prints mean and range of the final errors, and for how many seeds a variant is better than its reference."""

    def last(name: str) -> list[float]:
        return [curve[max(curve)] for curve in study.curves(name, given.seeds)]

    rows = [(one.name, one.compared) for one in VARIANTS] if given.steps else []
    rows += [(progressive_name(given.large, first), progressive_name(given.large, 0)) for first in study.firsts]
    print(f"{'':28}{'mean':>8}{'from':>8}{'to':>8}   against")
    for name, compared in rows:
        errors, reference = last(name), last(compared)
        better = sum(error < other for error, other in zip(errors, reference, strict=True))
        against = "" if name == compared else f"{compared}: better in {better} of {given.seeds}"
        print(f"{name:28}{sum(errors) / given.seeds:8.4f}{min(errors):8.4f}{max(errors):8.4f}   {against}")
    if given.large_steps:
        print(f"a step at {given.small} px has {study.cost_of_small():.2f} of the FLOPs of one at {given.large} px")
    if given.steps:
        print_weighting(*(list(study.curves(name, given.seeds)) for name in ("ddpm, Min-SNR 5", "ddpm, unweighted")))


def print_weighting(weighted: list[dict[int, float]], plain: list[dict[int, float]]) -> None:
    """Prints the step at which Min-SNR reaches the final error of the unweighted run with the same seed."""
    for seed, (ours, theirs) in enumerate(zip(weighted, plain, strict=True)):
        goal = theirs[max(theirs)]
        there = [step for step, error in ours.items() if error <= goal]
        reached = f"at step {there[0]}" if there else "not reached"
        print(f"Min-SNR, seed {seed}: the unweighted run's {goal:.4f} {reached}")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
