"""Trains a recipe and a change of it from the same seeds with the same FLOPs, and compares what they paint row by row.

Two tracks: ``portraits`` is the recipe demo on drawn portraits (about ten minutes of two cores for each training);
``photographs`` is the recipe faces on the photographs of ``--photos`` (about 45). Data, evaluation rows and FLOPs are
the same for every change; the steps of a change are scaled to the FLOPs of the track. Prints a table with the paired
differences of every seed, and appends a line to ``docs/learning-log.md``, won or lost. All results stay in ``--home``:
a training that is done is not repeated.

    python -m tests.benchmarks.speedrun --home DIR --try train.ema_decay=0.995 --what "longer average"
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from mmface.config import Recipe
from mmface.config.environment import prepare_environment
from mmface.config.load import load_recipe
from mmface.datasets.dataset import upstream
from mmface.estimate.shapes import Shapes
from mmface.evaluate.deciding.compare import Difference, compare
from mmface.evaluate.measuring.measures import judge, network
from mmface.evaluate.report.chart import histories
from mmface.evaluate.report.evaluation import System
from mmface.evaluate.report.pictures import grid
from mmface.store import HOME_VARIABLE
from mmface.studies.trials import HELD_OUT
from tests.benchmarks.faces import NETWORKS, train_networks, write_recipe

LOG = Path(__file__).parents[2] / "docs" / "learning-log.md"
METRICS = {
    "mask/frechet": "Fréchet",
    "mask/miou": "mIoU",
    "mask/hair_colour_accuracy": "hair",
    "sketch/edge_agreement": "sketch F1",
}
KID = "KID"  # in the features of the judge of masks
GRID = 16  # rows that a grid shows


@dataclass(frozen=True)
class Track:
    """What every training of a track shares.

    Attributes:
        flops: of all optimizer steps: those of the recipe when the track was made.
        settings: overrides of the recipe for the track.
    """

    recipe: str
    flops: float
    settings: tuple[str, ...]


# 560 portraits for training, as in the demo, and enough others to tell changes apart.
PORTRAITS = Track("demo", 6.46e13, ("portraits.n=934", "data.holdout=0.4", "evaluate.n=320", "evaluate.n_sketch=96"))
PHOTOGRAPHS = Track("faces", 5.28e14, ())


@dataclass(frozen=True)
class Made:
    """One training: what it painted, its held-out losses by step, and how long it took.

    Attributes:
        kid: the metric called :data:`KID`.
        steps: of the whole training.
        curve: (step, held-out loss).
    """

    system: System
    kid: str
    steps: int
    curve: tuple[tuple[int, float], ...]
    minutes: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True, help="folder for all results")
    parser.add_argument("--photos", type=Path, help="folder with images/ and masks/: the track photographs")
    parser.add_argument("--try", dest="changes", action="append", default=[], metavar="KEY=VALUE", help="the change")
    parser.add_argument("--base", action="append", default=[], metavar="KEY=VALUE", help="overrides of both sides")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each side (default: 3)")
    parser.add_argument("--flops", type=float, help="another budget, to screen changes (default: the track's)")
    parser.add_argument("--what", default="", help="the change in words, for the log")
    parser.add_argument("--log", type=Path, default=LOG, help="file to append the line to")
    given = parser.parse_args()
    os.environ[HOME_VARIABLE] = str(given.home.absolute())
    prepare_environment()
    track = photographs(given.photos, given.home.absolute()) if given.photos else PORTRAITS
    track = replace(track, flops=given.flops or track.flops)
    sides = [tuple(given.base), (*given.base, *given.changes)] if given.changes else [tuple(given.base)]
    made = [[run(track, side, seed) for side in sides] for seed in range(given.seeds)]
    for number, side in enumerate(sides):
        print(f"\n{' '.join(side) or 'the recipe'}")
        print("\n".join(describe(pair[number]) for pair in made))
        picture = given.home / f"{'change' if number else 'recipe'}.png"
        picture.write_bytes(grid(made[0][number].system.samples, GRID))
        print(f"  {picture}")
    if given.changes:
        pairs = [(changed, base) for base, changed in made]
        what = given.what or " ".join(given.changes)
        line = log_line("photographs" if given.photos else "portraits", what, pairs)
        print("\n" + line)
        append(given.log, line)


def photographs(photos: Path, home: Path) -> Track:
    """The track of photographs: every sixteenth is held out, VAE and parser are trained on the others."""
    home.mkdir(parents=True, exist_ok=True)
    recipe = write_recipe(photos.absolute(), home)
    train_networks(recipe, home / "networks")
    own = tuple(f"components.{name}={home / 'networks' / name}" for name in NETWORKS)
    return Track(str(recipe), PHOTOGRAPHS.flops, own)


def run(track: Track, side: Sequence[str], seed: int) -> Made:
    """Trains and measures one side of a pair; what is published already is only read."""
    from flows.cluster.server import start_temporary_server

    start_temporary_server()
    from flows.evaluate import evaluate
    from flows.prepare import prepare
    from flows.train import train

    settings = (*track.settings, *side, f"train.seed={seed}")
    recipe = load_recipe(track.recipe, list(settings))
    settings = (*settings, *scaled(recipe, track.flops))
    prepare(track.recipe, settings)
    trained = train(track.recipe, settings)
    scores = upstream(evaluate(track.recipe, settings))["scores"]
    phases = [one for stage, one in upstream(trained).items() if stage.startswith("train-")]
    curve = tuple(
        (offset + int(entry["step"]), entry[HELD_OUT])
        for _, offset, history in histories(upstream(trained))
        for entry in history
        if HELD_OUT in entry
    )
    return Made(
        System.of(" ".join(side) or "recipe", scores.uri, recipe.metrics.min_frechet_n),
        f"mask/kid_{network(judge(recipe))}",
        sum(int(one.manifest.extra["steps"]) for one in phases),
        curve,
        sum(one.manifest.seconds for one in phases) / 60,
    )


def scaled(recipe: Recipe, flops: float) -> list[str]:
    """Overrides that scale the steps of every phase so that all together cost ``flops``."""
    factor = flops / training_flops(recipe)
    return [f"phases.{i}.steps={round(phase.total_steps(1) * factor)}" for i, phase in enumerate(recipe.phases)]


def training_flops(recipe: Recipe) -> float:
    """FLOPs of all optimizer steps: a backward pass costs two forward passes."""
    shapes = Shapes(recipe)
    return sum(
        3.0 * phase.total_steps(1) * phase.batch_size * shapes.transformer_flops(phase.resolution)
        for phase in recipe.phases
    )


def figures_of(made: Made) -> dict[str, float]:
    """The figures that are shown, by their names in the tables."""
    values = {title(one.name, made): one.value for one in made.system.figures if one.value is not None}
    return {name: value for name, value in values.items() if name}


def title(name: str, made: Made) -> str:
    """What a figure is called in tables; empty for figures that are not shown."""
    if name == made.kid:
        return KID
    plain = "mask/frechet" if name.startswith("mask/frechet_") else name  # its name has extractor, size and rows
    return METRICS.get(plain, "")


def describe(made: Made) -> str:
    """The figures of one training on a line."""
    found = "  ".join(f"{name} {value:.4g}" for name, value in figures_of(made).items())
    return f"  {found}  held-out {made.curve[-1][1]:.4f}  {made.steps} steps, {made.minutes:.1f} min"


def differences(changed: Made, base: Made) -> dict[str, Difference]:
    """The paired differences of one seed, by the names in the tables."""
    known = {one.name for one in changed.system.figures}
    common = [one.name for one in base.system.figures if one.name in known and title(one.name, base)]
    return {title(one.name, base): one for one in compare(changed.system.scores, base.system.scores, common)}


def verdict(pairs: Sequence[tuple[Made, Made]]) -> str:
    """``wins`` if KID is better in most seeds and no figure is worse in most; ``loses`` if any is worse in most."""
    found = [differences(*pair) for pair in pairs]

    def mostly(what: str) -> list[str]:
        return [name for name in found[0] if sum(one[name].verdict == what for one in found) > len(pairs) / 2]

    better, worse = mostly("better"), mostly("worse")
    if worse:
        return f"loses ({', '.join(worse)})"
    return f"{'wins' if KID in better else 'undecided'} (better: {', '.join(better) or 'nothing'})"


def sooner(changed: Made, base: Made) -> str:
    """The share of its steps after which a change has reached the last held-out loss of the base."""
    reached = next((step for step, loss in changed.curve if loss <= base.curve[-1][1]), None)
    return "never" if reached is None else f"{reached / base.steps:.2f}"


def log_line(track: str, what: str, pairs: Sequence[tuple[Made, Made]]) -> str:
    """The line of the learning log: means over the seeds, base → change, with the widest paired interval."""
    cells, found = [], [differences(*pair) for pair in pairs]
    for name in found[0]:
        values = [(one[name].b, one[name].a) for one in found]
        before, after = (statistics.fmean(column) for column in zip(*values, strict=True))
        limits = [limit for one in found for limit in (one[name].low, one[name].high) if limit is not None]
        reach = f" ({min(limits):+.3g} … {max(limits):+.3g})" if limits else ""
        cells.append(f"{name} {before:.3g} → {after:.3g}{reach}")
    losses = [statistics.fmean(pair[side].curve[-1][1] for pair in pairs) for side in (1, 0)]
    ratio = statistics.fmean(a.minutes / b.minutes for a, b in pairs)
    early = ", ".join(sooner(*pair) for pair in pairs)
    cells += [f"held-out {losses[0]:.4f} → {losses[1]:.4f}", f"same loss after {early} of the steps"]
    figures = "; ".join(cells)
    today = datetime.now(UTC).date().isoformat()
    return f"| {today} | {track} | {what} | {len(pairs)} | {figures} | {ratio:.2f} x | {verdict(pairs)} |"


def append(log: Path, line: str) -> None:
    """Appends a line to the table at the end of the log."""
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


if __name__ == "__main__":
    main()
