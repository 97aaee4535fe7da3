"""The flows that measure: a trained model for its bundle, and any system on an evaluation set (§8)."""

from __future__ import annotations

import logging
from pathlib import Path

from prefect import flow

from flows.steps.artifacts import show_grid
from flows.steps.evaluation import (
    as_model,
    choose_evalset,
    measured,
    paint_and_bundle,
    scores_of_bundle,
    scores_of_version,
)
from flows.steps.hooks import HOOKS
from flows.steps.line import (
    Run,
    begin,
    prepare_data,
    stage,
    train_phases,
    with_collection,
)
from mmface import plan
from mmface.bundles.registry import find_version
from mmface.bundles.weights import REGISTERED, registered
from mmface.config.load import read_recipe
from mmface.datasets.dataset import open_dataset, published
from mmface.evaluate.foreign import digest_files, match_files, wanted_rows
from mmface.store import Store

log = logging.getLogger(__name__)

IMAGES = "images:"


@flow(name="evaluate", **HOOKS)
def evaluate(recipe: str = "demo", overrides: tuple[str, ...] = ()) -> str:
    """Generates images for held-out rows, measures them and bundles the model with its metrics.

    Returns the URI of the bundle.

    Args:
        recipe: Name of a recipe that ships, or a path or s3:// address of a YAML file.
        overrides: KEY=VALUE, one recipe key each, such as evaluate.n=64.
            ``mmface recipe explain KEY`` describes a key.

    Raises:
        DatasetError: the data is not prepared, or the model is not trained.
        MMFaceError: a user error, or a stage failed.
    """
    run = with_collection(begin(recipe, overrides).only_finding("prepare"))
    data = prepare_data(run, evaluates=True)
    trained = train_phases(run.only_finding("train"), data)
    bundle = paint_and_bundle(run.making(), data, trained)
    show_grid(bundle, run.recipe.evaluate.grid)
    return bundle


@flow(name="measure", **HOOKS)
def measure(recipe: str = "demo", overrides: tuple[str, ...] = (), systems: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Measures systems on the recipe's evaluation set; published samples and scores are not computed again.

    Returns the URIs of the scores, in the order of the systems.

    Args:
        recipe: Name of a recipe that ships, or a path or s3:// address of a YAML file; gives evaluation set and judges.
        overrides: KEY=VALUE, one recipe key each, such as evaluate.n=64.
            ``mmface recipe explain KEY`` describes a key.
        systems: each models:/NAME@ALIAS, models:/NAME/VERSION, the folder of a bundle, or images:DIR for a folder or
            s3:// prefix with the images of another system.

    Raises:
        DatasetError: no evaluation set was chosen yet, and the data is not prepared.
        InputError: a folder of images does not fit the evaluation set.
        MMFaceError: a user error, or a stage failed.
    """
    run = begin(recipe, overrides)
    evalset = find_evalset(run)
    return tuple(scores_of(run, system, evalset) for system in systems)


@flow(name="evalset", **HOOKS)
def choose(recipe: str = "demo", overrides: tuple[str, ...] = ()) -> str:
    """Chooses the recipe's evaluation set from the prepared photographs, once; returns its URI.

    Args:
        recipe: Name of a recipe that ships, or a path or s3:// address of a YAML file.
        overrides: KEY=VALUE, one recipe key each, such as evaluate.set=v2.
            ``mmface recipe explain KEY`` describes a key.

    Raises:
        DatasetError: no evaluation set was chosen yet, and the data is not prepared.
        MMFaceError: a user error, or a stage failed.
    """
    return find_evalset(begin(recipe, overrides))


def find_evalset(run: Run) -> str:
    """URI of the recipe's evaluation set; chosen now from the prepared data if there is none."""
    found = published(run.home, plan.evalset(run.recipe))
    if found:
        return found
    prepared = with_collection(run.only_finding("prepare"))
    return choose_evalset(prepared.making(), prepare_data(prepared, evaluates=True))


def scores_of(run: Run, system: str, evalset: str) -> str:
    """URI of the scores of a system, as :func:`measure` names it."""
    if system.startswith(IMAGES):
        return _scores_of_images(run, system.removeprefix(IMAGES), evalset)
    if system.startswith(REGISTERED):
        model, which = registered(system, "system")
        return scores_of_version(run, model, find_version(model, which)[0], evalset)
    from mmface.bundles.bundle import RECIPE, require_bundle  # imports torch

    folder = Path(system).expanduser().absolute()
    require_bundle(folder)
    recipe = as_model(run.recipe, read_recipe(str(folder / RECIPE)))
    return scores_of_bundle(run, recipe, str(folder), evalset)


def _scores_of_images(run: Run, place: str, evalset: str) -> str:
    store = Store(place if "://" in place else str(Path(place).expanduser().absolute()))
    files, unmatched = match_files((entry.key for entry in store.list()), wanted_rows(open_dataset(evalset)))
    if unmatched:
        log.warning("%d images in %s match no row and are ignored, such as %s", len(unmatched), place, unmatched[0])
    identity = plan.samples_of_pictures(run.recipe, digest_files(store, files), evalset)
    samples = stage(run, identity, "samples", reads={"pictures": store.uri})
    return measured(run, run.recipe, samples, evalset)
