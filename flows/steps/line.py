"""The stages from photographs to a bundle (§1), of which each flow runs a part, and what the stages of a run share.

Published datasets are the only cache: a stage looks for its dataset by fingerprint before it creates a task, whichever
flow or machine published it. A rerun thereby resumes at the first stage that is not published. Prefect's result cache
is not used.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from prefect.runtime import flow_run

from flows.cluster.jobs import Job, save_recipe
from flows.lineage.emit import report_found, reported
from flows.steps.artifacts import show_tracking
from flows.steps.preflight import check
from flows.steps.progress import Status, report
from flows.steps.tasks import work
from mmface import plan
from mmface.bundles import tracking
from mmface.bundles.lineage import log_datasets
from mmface.bundles.weights import REGISTERED, pin_start
from mmface.config import Collection, Entrypoint, Recipe, fingerprint
from mmface.config.environment import prepare_environment
from mmface.config.load import load_recipe
from mmface.data.shortages import shortages
from mmface.datasets.dataset import open_dataset, published
from mmface.datasets.manifest import Identity
from mmface.errors import DatasetError, MMFaceError, RegistryError, StageError
from mmface.networks.hub import choose_components, pin_components
from mmface.store import Store, home
from mmface.store.leases import Owner, held

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Collects the names of the datasets that a run would publish if it started from the weights of a known model.

    Attributes:
        lineage: of the known model, see :func:`mmface.plan.lineage`.
        keys: of the datasets, in the order of the stages.
    """

    lineage: Mapping[str, Mapping[str, Any]]
    keys: list[str] = field(default_factory=list)

    def name(self, identity: Identity) -> str:
        """Returns the key of a stage's dataset, and adds it to ``keys``."""
        if identity.stage.startswith("train-") and identity.stage in self.lineage:
            identity = identity.model_copy(update={"weights": self.lineage[identity.stage]["weights"]})
        self.keys.append(identity.key)
        return identity.key


@dataclass(frozen=True)
class Run:
    """What all stages of one flow run share.

    Attributes:
        mlflow_run: id of the MLflow run that training logs to; None if the flow does not train.
        flow_run: id of the Prefect flow run.
        looks_up: the flow that must have published the stages before; empty if this run may run them.
        made: stages that this run ran itself.
        follows: the registered version that training starts from because an alias points to it now; empty if the recipe
            names a fixed start.
        plan: if given, stages only add their names to it and run nothing.
    """

    recipe: Recipe
    recipe_uri: str
    home: Store
    mlflow_run: str | None
    flow_run: str
    looks_up: str = ""
    made: list[str] = field(default_factory=list)
    follows: str = ""
    plan: Plan | None = None

    def only_finding(self, flow: str) -> Run:
        """The same run for stages that the flow of that name must have published before."""
        return replace(self, looks_up=flow)

    def making(self) -> Run:
        """The same run for stages that this flow runs itself."""
        return replace(self, looks_up="")


@dataclass(frozen=True)
class Prepared:
    """URIs of the datasets that training and evaluation read; ``latents`` by resolution."""

    images: str
    conditions: str
    captions: str
    text: str
    latents: dict[int, str]


def begin(recipe: str, overrides: Sequence[str]) -> Run:
    """Validates the recipe and checks that all services answer, before anything is computed.

    Raises:
        MMFaceError: a user error, or a service that does not answer.
    """
    prepare_environment()  # again, for processes that a Prefect worker starts
    given = load_recipe(recipe, list(overrides))
    resolved = choose_components(pin_start(given))
    check(resolved)
    resolved = pin_components(resolved)
    place, start = home(), resolved.train.start
    follows = start if start.startswith(REGISTERED) and start != given.train.start else ""
    return Run(resolved, save_recipe(place, resolved), place, None, str(flow_run.id or ""), follows=follows)


@contextmanager
def tracked(run: Run, mlflow_run: str | None = None) -> Iterator[Run]:
    """Adds an MLflow run to ``run`` and ends it with the context: FINISHED, FAILED, or KILLED after an interrupt.

    Args:
        mlflow_run: id of an open MLflow run; by default that of :func:`open_mlflow_run`.
    """
    mlflow_run = mlflow_run or open_mlflow_run(run)
    run = replace(run, mlflow_run=mlflow_run)
    show_tracking(mlflow_run)
    try:
        yield run
    except BaseException as error:
        # Errors of MLflow are logged only, so that they do not replace this one.
        _finish(mlflow_run, "FAILED" if isinstance(error, Exception) else "KILLED", ignored=MMFaceError)
        raise
    _finish(mlflow_run, "FINISHED", ignored=RegistryError)  # the MLflow run was deleted in the meantime


def _finish(mlflow_run: str, status: str, *, ignored: type[MMFaceError]) -> None:
    try:
        tracking.finish_run(mlflow_run, status)
    except ignored as error:
        log.warning("MLflow run %s was not marked as %s: %s", mlflow_run, status, error)


def open_mlflow_run(run: Run) -> str:
    """Opens the MLflow run of this recipe and these photographs, the same one in a rerun; returns its id."""
    recipe, key = run.recipe, run_key(run)
    with held(run.home, f"mlflow-{key}", Owner.this(run.flow_run)):  # or two flows would open two runs
        return tracking.start_run(f"retrain-{recipe.name}", {"mmface.recipe": run.recipe_uri}, key=key)


def run_key(run: Run) -> str:
    """Names the work on this recipe and these photographs, the same in a rerun."""
    recipe = run.recipe
    data = plan.images(recipe, run.home) if recipe.sources else plan.portraits(recipe)
    settings = recipe.model_dump(mode="json", exclude={"jobs": True, "data": {"min_matched"}})
    return f"{fingerprint(settings)}-{data.fingerprint}"


def with_collection(run: Run) -> Run:
    """The run with its sources; with a collection of drawn portraits if the recipe names none."""
    if run.recipe.sources:
        return run
    folder = stage(run, plan.portraits(run.recipe), "portraits")
    drawn = Collection(
        name="portraits",
        licence="Apache-2.0",
        images=f"{folder}/images",
        masks=f"{folder}/masks",
        captions=f"{folder}/captions.jsonl",
    )
    recipe = run.recipe.model_copy(update={"sources": (drawn,)})
    return replace(run, recipe=recipe, recipe_uri=save_recipe(run.home, recipe))


def prepare_data(run: Run, *, evaluates: bool = False) -> Prepared:
    """Runs the stages from photographs to latents and text embeddings.

    Args:
        evaluates: whether the run needs held-out photographs, to evaluate with.

    Raises:
        StageError: no photographs are left to train on, or to evaluate with.
    """
    recipe = run.recipe
    images = stage(run, plan.images(recipe, run.home), "images")
    if run.plan is None:
        check_rows(recipe, images, ("train", "test") if evaluates else ("train",))
    conditions = stage(run, plan.conditions(recipe, images), "conditions")
    captions = stage(run, plan.captions(recipe, images, conditions), "captions")
    text = stage(run, plan.text(recipe, captions), "text")
    # One job makes the latents of all resolutions: the first missing one runs it, the others are published by then.
    latents = {
        size: stage(run, plan.latents(recipe, size, images, conditions), "latents") for size in recipe.resolutions
    }
    return Prepared(images, conditions, captions, text, latents)


def check_rows(recipe: Recipe, images: str, needed: Sequence[str]) -> None:
    """Warns about what the published photographs are too few for; raises StageError if it is one of ``needed``."""
    for shortage in shortages(open_dataset(images), recipe):
        if shortage.of in needed:
            raise StageError(shortage.message, field="images")
        log.warning("images: %s", shortage.message)


def train_phases(run: Run, data: Prepared) -> str:
    """Trains each phase from the previous one; returns the URI of the last."""
    *_, last = each_phase(run, data)
    return last


def each_phase(run: Run, data: Prepared) -> Iterator[str]:
    """Trains each phase from the previous one; yields the URI of each when it is published."""
    log_inputs(run, [*data.latents.values(), data.text])
    trained: str | None = None
    for i, phase in enumerate(run.recipe.phases):
        identity = plan.train(run.recipe, i, data.latents[phase.resolution], data.text, trained)
        trained = stage(run, identity, "train", i)
        yield trained


def log_inputs(run: Run, datasets: Sequence[str]) -> None:
    """Records datasets as inputs of the run's MLflow run, with all that they were made from."""
    if run.mlflow_run and run.plan is None:
        log_datasets(run.mlflow_run, datasets)


def stage(
    run: Run, identity: Identity, entrypoint: Entrypoint, phase: int = 0, *, reads: Mapping[str, str] | None = None
) -> str:
    """Returns the URI of a stage's dataset: published already, only planned, or made now by a job in its own task.

    Args:
        reads: further inputs of the job by name, which are not part of the identity.

    Raises:
        DatasetError: the dataset is not published, and another flow has to run the stage.
    """
    if run.plan is not None:
        return f"{run.home.uri}/{run.plan.name(identity)}"
    found = published(run.home, identity)
    if found:
        report_found(run.home, identity)
        log.info("%s: published already", identity.stage)
        report(identity.stage, Status.REUSED)
        return found
    if run.looks_up:
        message = f"it is not published for this recipe and these photographs; run the flow {run.looks_up} first"
        raise DatasetError(message, field=identity.stage)
    job = Job(
        stage=entrypoint,
        identity=identity,
        recipe=run.recipe_uri,
        home=run.home,
        phase=phase,
        mlflow_run=run.mlflow_run,
        flow_run=run.flow_run,
        settings=run.recipe.jobs,
        reads=dict(reads or {}),
    )
    log.info("%s: started", identity.stage)
    report(identity.stage, Status.RUNNING)
    run.made.append(identity.stage)
    # No tags: for a task with tags Prefect requests a slot from its server, which on SQLite often fails at first.
    with reported(run.home, identity):
        uri = str(work.with_options(name=identity.stage)(job))
    report(identity.stage, Status.DONE)
    return uri
