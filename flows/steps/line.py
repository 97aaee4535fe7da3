"""The line that every flow is a stretch of (§1): what a run shares, and its stages from photographs to a bundle.

A published dataset is the cache: it is found by its fingerprint before a task is made, whichever flow made it and on
whichever machine, so Prefect's own result cache would be a second truth and is left out. A rerun thereby resumes at the
first stage that is not published.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from prefect.runtime import flow_run

from flows.cluster.jobs import Job, save_recipe
from flows.cluster.leases import Owner, held
from flows.steps.artifacts import show_tracking
from flows.steps.preflight import check
from flows.steps.progress import Status, report
from flows.steps.tasks import work
from mmface import plan
from mmface.bundles import tracking
from mmface.bundles.weights import REGISTERED, pin_start
from mmface.config import Collection, Entrypoint, Recipe, fingerprint
from mmface.config.environment import prepare_environment
from mmface.config.load import load_recipe
from mmface.data.shortages import shortages
from mmface.datasets.dataset import open_dataset, published
from mmface.datasets.manifest import Identity
from mmface.errors import DatasetError, MMFaceError, RegistryError, StageError
from mmface.networks.hub import pin_components
from mmface.store import Store, home

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Names the datasets that a run would make, had its training begun where that of a known model began.

    Attributes:
        lineage: of the known model, see :func:`mmface.plan.lineage`.
        keys: of the datasets, in the order of the line.
    """

    lineage: Mapping[str, Mapping[str, Any]]
    keys: list[str] = field(default_factory=list)

    def name(self, identity: Identity) -> str:
        """Key of the stage's dataset."""
        if identity.stage.startswith("train-") and identity.stage in self.lineage:
            identity = identity.model_copy(update={"weights": self.lineage[identity.stage]["weights"]})
        self.keys.append(identity.key)
        return identity.key


@dataclass(frozen=True)
class Run:
    """What every stage of one flow run shares.

    Attributes:
        mlflow_run: that training logs to; None where nothing is trained.
        flow_run: id of the Prefect flow run.
        looks_up: the flow that makes what is missing; stages are made here when empty.
        made: stages that this run made itself.
        follows: the registered version that training goes on from because an alias points to it now; empty where the
            recipe names its start for good.
        plan: names what the stages would make, in place of making it.
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
        """The same run, for stages that the flow of that name must have made before."""
        return replace(self, looks_up=flow)

    def making(self) -> Run:
        """The same run, for stages that this flow makes itself."""
        return replace(self, looks_up="")


@dataclass(frozen=True)
class Prepared:
    """URIs of the datasets that training and evaluation read; latents by resolution."""

    images: str
    conditions: str
    captions: str
    text: str
    latents: dict[int, str]


def begin(recipe: str, overrides: Sequence[str]) -> Run:
    """Validates the parameters and checks what must be reachable before anything is computed.

    Raises:
        MMFaceError: a user's mistake, or a server that does not answer.
    """
    prepare_environment()  # of a process that a Prefect worker started
    given = load_recipe(recipe, list(overrides))
    resolved = pin_start(given)
    check(resolved)
    resolved = pin_components(resolved)
    place, start = home(), resolved.train.start
    follows = start if start.startswith(REGISTERED) and start != given.train.start else ""
    return Run(resolved, save_recipe(place, resolved), place, None, str(flow_run.id or ""), follows=follows)


@contextmanager
def tracked(run: Run) -> Iterator[Run]:
    """Gives a run its MLflow run, which ends as the context does: FINISHED, FAILED, or KILLED when interrupted."""
    mlflow_run = open_mlflow_run(run)
    run = replace(run, mlflow_run=mlflow_run)
    show_tracking(mlflow_run)
    try:
        yield run
    except BaseException as error:
        # What went wrong first is what matters.
        _finish(mlflow_run, "FAILED" if isinstance(error, Exception) else "KILLED", but=MMFaceError)
        raise
    _finish(mlflow_run, "FINISHED", but=RegistryError)  # a run that was deleted meanwhile is no reason to fail


def _finish(mlflow_run: str, status: str, *, but: type[MMFaceError]) -> None:
    try:
        tracking.finish_run(mlflow_run, status)
    except but as error:
        log.warning("MLflow run %s is not marked as %s: %s", mlflow_run, status, error)


def open_mlflow_run(run: Run) -> str:
    """One run for one recipe on one collection: photographs that have come since are another retraining."""
    recipe = run.recipe
    data = plan.images(recipe, run.home) if recipe.sources else plan.portraits(recipe)
    settings = recipe.model_dump(mode="json", exclude={"jobs": True, "data": {"min_matched"}})
    key = f"{fingerprint(settings)}-{data.fingerprint}"
    with held(run.home, f"mlflow-{key}", Owner.this(run.flow_run)):  # two flows would open two
        return tracking.start_run(f"retrain-{recipe.name}", {"mmface.recipe": run.recipe_uri}, key=key)


def with_collection(run: Run) -> Run:
    """The run with sources: its own, or a drawn collection as its only one."""
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
    """Photographs to latents and embedded captions.

    Args:
        evaluates: the run paints held-out photographs, so that it needs some.

    Raises:
        StageError: the published photographs leave none to train on, or none to evaluate with.
    """
    recipe = run.recipe
    images = stage(run, plan.images(recipe, run.home), "images")
    if run.plan is None:
        check_rows(recipe, images, ("train", "test") if evaluates else ("train",))
    conditions = stage(run, plan.conditions(recipe, images), "conditions")
    captions = stage(run, plan.captions(recipe, images, conditions), "captions")
    text = stage(run, plan.text(recipe, captions), "text")
    # One job makes every resolution: the first that is missing runs it, the next ones are found.
    latents = {
        size: stage(run, plan.latents(recipe, size, images, conditions), "latents") for size in recipe.resolutions
    }
    return Prepared(images, conditions, captions, text, latents)


def check_rows(recipe: Recipe, images: str, needed: Sequence[str]) -> None:
    """Says what the published photographs are too few for. Raises StageError where that is one of ``needed``."""
    for shortage in shortages(open_dataset(images), recipe):
        if shortage.of in needed:
            raise StageError(shortage.message, field="images")
        log.warning("images: %s", shortage.message)


def train_phases(run: Run, data: Prepared) -> str:
    """Every phase from the one before; URI of the last."""
    trained: str | None = None
    for i, phase in enumerate(run.recipe.phases):
        identity = plan.train(run.recipe, i, data.latents[phase.resolution], data.text, trained)
        trained = stage(run, identity, "train", i)
    assert trained is not None, "a recipe has phases"
    return trained


def paint_and_bundle(run: Run, data: Prepared, trained: str) -> str:
    """Paints and measures held-out rows and puts the servable model together; URI of the bundle."""
    identity = plan.samples(run.recipe, trained, data.images, data.conditions, data.captions)
    samples = stage(run, identity, "samples")
    return stage(run, plan.bundle(run.recipe, trained, samples), "bundle")


def stage(run: Run, identity: Identity, entrypoint: Entrypoint, phase: int = 0) -> str:
    """URI of the stage's dataset: found, planned, or made by its Ray job in a task of its own.

    Raises:
        DatasetError: it is not published, and another flow is to make it.
    """
    if run.plan is not None:
        return f"{run.home.uri}/{run.plan.name(identity)}"
    found = published(run.home, identity)
    if found:
        log.info("%s: published already", identity.stage)
        report(identity.stage, Status.REUSED)
        return found
    if run.looks_up:
        message = f"it is not published for this recipe and these photographs; run the flow {run.looks_up} first"
        raise DatasetError(message, field=identity.stage)
    job = Job(entrypoint, identity, run.recipe_uri, run.home, phase, run.mlflow_run, run.flow_run, run.recipe.jobs)
    log.info("%s: started", identity.stage)
    report(identity.stage, Status.RUNNING)
    run.made.append(identity.stage)
    # No tags: Prefect asks its server for a slot of each task that has some; on SQLite that is mostly refused at first.
    uri = str(work.with_options(name=identity.stage)(job))
    report(identity.stage, Status.DONE)
    return uri
