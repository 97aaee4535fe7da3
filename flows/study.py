"""The study flow: trains a recipe in several variants and from several seeds on the same data, and compares them."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.cluster.jobs import save_recipe
from flows.steps.hooks import HOOKS
from flows.steps.line import Prepared, Run, begin, prepare_data, run_key, tracked, with_collection
from flows.trials import STOPPED_TAG, Assignment, run_trials, stopping_early
from mmface.bundles import tracking
from mmface.config import fingerprint
from mmface.config.load import load_recipe
from mmface.datasets.dataset import open_dataset
from mmface.errors import RecipeError, StageError
from mmface.networks.hub import pin_components
from mmface.store.leases import Owner, held
from mmface.studies import table
from mmface.studies.trials import Outcome, Trial, ablation, sweep

log = logging.getLogger(__name__)

ABLATION, SWEEP = "ablation", "sweep"


@dataclass(frozen=True)
class Study:
    """A finished study.

    Attributes:
        outcomes: of all trials; of a sweep the best variant first.
        tables: in Markdown, one for each kind of drawing.
        mlflow_run: id of the MLflow run whose children are the trials.
    """

    outcomes: list[Outcome]
    tables: list[str]
    mlflow_run: str

    def summary(self) -> str:
        """What the terminal shows."""
        return "\n\n".join([*self.tables, f"MLflow run {self.mlflow_run}; its children are the trials"])


@flow(name="study", **HOOKS)
def study(
    recipe: str = "demo",
    overrides: tuple[str, ...] = (),
    grid: tuple[str, ...] = (),
    seeds: int = 1,
    vae: str | None = None,
    metric: str = "mask/miou",
    stop_early: bool = False,
    at_once: int = 1,
) -> Study:
    """Trains, paints and measures every variant of a recipe from every seed; registers and promotes nothing.

    Data is prepared once for all trials that read the same. A rerun continues the same MLflow runs, and what is
    published is not computed again.

    Args:
        recipe: Name of a recipe that ships, or a path or s3:// address of a YAML file.
        overrides: KEY=VALUE, one recipe key each, of all trials.
            ``mmface recipe explain KEY`` describes a key.
        grid: KEY=[VALUE, …], one recipe key each; a trial for every combination. Without it the paper's ablation,
            Model-1 … Model-5.
        seeds: Trainings of each variant, with train.seed counted from the recipe's.
        vae: VAE of the ablation's Model-1 … Model-4; by default the recipe's.
        metric: Figure by which the variants of a grid are ordered.
        stop_early: Stop a trial whose held-out loss is in the worse half after a quarter or half of its steps.
        at_once: Trials that run at the same time.

    Raises:
        RecipeError: a user error in recipe, grid or seeds.
        StageError: a trial failed; the others are finished and recorded. Run again to resume.
    """
    start = begin(recipe, overrides)
    kind = SWEEP if grid else ABLATION
    trials = sweep(start.recipe, grid, seeds) if grid else ablation(start.recipe, seeds, vae)
    runs = [variant_of(start, trial) for trial in trials]
    with tracked(start, open_study(start, kind, trials)) as parent:
        runs = [with_collection(run) for run in runs]
        data = [prepare_data(run, evaluates=True) for run in runs]
        shared = len({json.dumps(asdict(one), sort_keys=True) for one in data})
        log.info("%d trials read %d set%s of datasets", len(trials), shared, "" if shared == 1 else "s")
        assert grid or vae or shared == 1, "the parts of a model change no data"
        if stop_early:
            check_losses(runs, shared)
        assignments = [assign(parent, *one) for one in zip(trials, runs, data, strict=True)]
        outcomes = carry_out(assignments, at_once, total_steps(runs[0], data[0]) if stop_early else None)
        if grid:
            outcomes = table.ranked(outcomes, metric)
        recipes = {trial.variant: run.recipe for trial, run in zip(trials, runs, strict=True)}
        made = Study(outcomes, table.tables(outcomes, None if grid else recipes), str(parent.mlflow_run))
        record(made, kind)
        failed = [f"{one.trial.name}: {one.failed}" for one in outcomes if one.failed]
        if failed:
            log.info("%s", made.summary())
            message = f"{len(failed)} of {len(outcomes)} trials failed; run again to resume; {'; '.join(failed)}"
            raise StageError(message, field="study")
    return made


def variant_of(start: Run, trial: Trial) -> Run:
    """The run with the recipe of a trial.

    Raises:
        RecipeError: an unknown key, or a value out of range.
    """
    recipe = pin_components(load_recipe(start.recipe_uri, trial.overrides))
    return replace(start, recipe=recipe, recipe_uri=save_recipe(start.home, recipe))


def open_study(start: Run, kind: str, trials: Sequence[Trial]) -> str:
    """Opens the MLflow run of the study, the same one in a rerun and with more seeds or values; returns its id."""
    keys = sorted({key for trial in trials for key in trial.changes})
    key = f"{fingerprint(kind, keys)}-{run_key(start)}"
    with held(start.home, f"mlflow-{key}", Owner.this(start.flow_run)):  # or two flows would open two runs
        tags = {"mmface.recipe": start.recipe_uri, "mmface.study": kind}
        return tracking.start_run(f"{kind}-{start.recipe.name}", tags, key=key)


def assign(parent: Run, trial: Trial, run: Run, data: Prepared) -> Assignment:
    """What the process of a trial needs; the key of its MLflow run holds all that the trial changes."""
    study = str(parent.mlflow_run)
    return Assignment(trial, run, data, f"{study}-{fingerprint(trial.overrides)}", study)


def check_losses(runs: Sequence[Run], shared: int) -> None:
    """Raises RecipeError unless the held-out losses of all trials are measured, and alike."""
    if any(run.recipe.watch.held_out_rows == 0 for run in runs):
        raise RecipeError(
            "trials are stopped by their held-out loss; give a number above 0", field="watch.held_out_rows"
        )
    if shared > 1 or len({run.recipe.objective for run in runs}) > 1:
        message = "losses on other data or of another objective cannot be compared; vary other keys, or leave it out"
        raise RecipeError(message, field="--stop-early")


def total_steps(run: Run, data: Prepared) -> int:
    """Optimizer steps of all phases of a trial."""
    rows = {size: open_dataset(uri).manifest.counts["out"] for size, uri in data.latents.items()}
    return sum(phase.total_steps(rows[phase.resolution]) for phase in run.recipe.phases)


def carry_out(assignments: Sequence[Assignment], at_once: int, steps: int | None) -> list[Outcome]:
    """Runs the trials that an earlier run did not stop; with ``steps`` bad ones are stopped early and stay so."""
    stopped = {} if steps is None else stopped_before(assignments)
    todo = [one for one in assignments if one.trial.name not in stopped]
    ran = run_trials(todo, at_once=at_once, scheduler=stopping_early(steps) if steps else None) if todo else []
    for one, outcome in zip(todo, ran, strict=True):
        if outcome.stopped is not None:
            mark_stopped(one, outcome)
    found = {**stopped, **{outcome.trial.name: outcome for outcome in ran}}
    return [found[one.trial.name] for one in assignments]


def stopped_before(assignments: Sequence[Assignment]) -> Mapping[str, Outcome]:
    """The trials that an earlier run stopped early, by name."""
    steps = ((one.trial, tracking.read_tags(one.key).get(STOPPED_TAG)) for one in assignments)
    return {trial.name: Outcome(trial, stopped=int(step)) for trial, step in steps if step}


def mark_stopped(one: Assignment, outcome: Outcome) -> None:
    """Records in MLflow that a trial was stopped early."""
    mlflow_run = tracking.start_run(one.trial.name, key=one.key, parent=one.parent)
    tracking.set_tags(mlflow_run, {STOPPED_TAG: str(outcome.stopped)})
    tracking.finish_run(mlflow_run, "KILLED")


def record(made: Study, kind: str) -> None:
    """Stores the tables and the outcomes in MLflow, and the tables in Prefect."""
    text = "\n\n".join(made.tables)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "study.md").write_text(f"{text}\n", encoding="utf-8")
        outcomes = [asdict(one) for one in made.outcomes]
        (Path(folder) / "study.json").write_text(json.dumps(outcomes, indent=1), encoding="utf-8")
        tracking.log_artifact(made.mlflow_run, Path(folder), "study")
    create_markdown_artifact(text, "study", f"The {kind}")
