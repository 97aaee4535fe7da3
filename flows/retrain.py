"""The retraining flow: photographs in, a served champion out (§1). It reads like the picture in the README."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.jobs import Job, run_job, save_recipe
from flows.release import Release, release
from mmface import stages, tracking
from mmface.config import Collection, Recipe, fingerprint
from mmface.dataset import published
from mmface.manifest import Identity
from mmface.recipes import parse_recipe
from mmface.storage import Store, home
from mmface.weights import pin

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What every stage of one retraining shares."""

    recipe: Recipe
    recipe_uri: str
    home: Store
    mlflow_run: str


@flow(name="retrain", validate_parameters=False)
def retrain(recipe: dict[str, Any]) -> Release:
    """Runs every stage that is not published yet, then evaluates, gates, registers, tries the service and reports.

    Args:
        recipe: the resolved recipe as a plain tree (see :class:`mmface.config.Recipe`).

    Raises:
        MMFaceError: a user's mistake or a stage that failed; whatever was published stays and is not done again.
    """
    run = start(parse_recipe(recipe))
    if not run.recipe.sources:
        run = with_portraits(run)
    recipe_ = run.recipe

    images = stage(run, stages.images(recipe_, run.home), "images")
    conditions = stage(run, stages.conditions(recipe_, images), "conditions")
    captions = stage(run, stages.captions(recipe_, images, conditions), "captions")
    text = stage(run, stages.text(recipe_, captions), "text")
    # One job makes every resolution: the first that is missing runs it, the next ones are found.
    latents = {
        size: stage(run, stages.latents(recipe_, size, images, conditions), "latents") for size in recipe_.resolutions
    }
    trained: list[str] = []
    for i, phase in enumerate(recipe_.phases):
        previous = trained[-1] if trained else None
        trained.append(stage(run, stages.train(recipe_, i, latents[phase.resolution], text, previous), "train", i))
    samples = stage(run, stages.samples(recipe_, trained[-1], images, conditions, captions), "samples")
    bundle = stage(run, stages.bundle(recipe_, trained[-1], samples), "bundle")
    return release(recipe_, run.home, bundle, run.mlflow_run)


def start(recipe: Recipe) -> Run:
    """Checks what must be reachable before anything is computed, and opens the MLflow run."""
    place = home()
    # Another run may move the alias meanwhile.
    train = recipe.train.model_copy(update={"start": pin(recipe.train.start)})
    recipe = recipe.model_copy(update={"train": train})
    uri = save_recipe(place, recipe)
    # One run for one recipe on one collection: photographs that have come since are another retraining.
    data = stages.images(recipe, place) if recipe.sources else stages.portraits(recipe)
    key = f"{fingerprint(recipe)}-{data.fingerprint}"
    mlflow_run = tracking.start_run(f"retrain-{recipe.name}", {"mmface.recipe": uri}, key=key)
    return Run(recipe, uri, place, mlflow_run)


def with_portraits(run: Run) -> Run:
    """The run with a drawn collection as its only one."""
    folder = stage(run, stages.portraits(run.recipe), "portraits")
    drawn = Collection(
        name="portraits",
        licence="Apache-2.0",
        images=f"{folder}/images",
        masks=f"{folder}/masks",
        captions=f"{folder}/captions.jsonl",
    )
    recipe = run.recipe.model_copy(update={"sources": (drawn,)})
    return replace(run, recipe=recipe, recipe_uri=save_recipe(run.home, recipe))


def stage(run: Run, identity: Identity, entrypoint: str, phase: int = 0) -> str:
    """URI of the stage's dataset: found, or made by its Ray job in a task of its own."""
    found = published(run.home, identity)
    if found:
        log.info("%s: published already", identity.stage)
        return found
    job = Job(entrypoint, identity, run.recipe_uri, run.home, phase, run.mlflow_run)
    log.info("%s: started", identity.stage)
    return str(work.with_options(name=identity.stage)(job))


# Fingerprints are the cache: a published dataset is found before a task is made.
@task(cache_policy=NO_CACHE)
def work(job: Job) -> str:
    """Runs one job to its published dataset."""
    return run_job(job)
