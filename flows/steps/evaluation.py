"""The evaluation of a trained model and of registered versions: sets, samples and scores, found or made now (§8)."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

from flows.cluster.jobs import save_recipe
from flows.steps.line import Prepared, Run, log_inputs, stage
from mmface import plan
from mmface.bundles.lineage import LINEAGE
from mmface.bundles.moves import CHAMPION
from mmface.bundles.registry import get_alias, read_file
from mmface.bundles.weights import REGISTERED, bundle_identity
from mmface.config import Recipe
from mmface.config.load import read_recipe_text
from mmface.datasets.dataset import open_dataset, published
from mmface.datasets.manifest import MANIFEST, Identity
from mmface.errors import DatasetError

log = logging.getLogger(__name__)


def paint_and_bundle(run: Run, data: Prepared, trained: str) -> str:
    """Paints and measures the evaluation set and builds the bundle; returns the URI of the bundle."""
    evalset = choose_evalset(run, data)
    log_inputs(run, [evalset])
    samples = stage(run, plan.samples(run.recipe, trained, evalset), "samples")
    features = None
    if run.recipe.gate.max_memorised is not None:
        features = stage(run, plan.features(run.recipe, data.images), "features")
    scores = stage(run, plan.scores(run.recipe, samples, evalset, features), "scores")
    return stage(run, plan.bundle(run.recipe, trained, scores), "bundle")


def choose_evalset(run: Run, data: Prepared) -> str:
    """The evaluation set: the published one whatever was collected since, or a new one chosen from ``data``.

    Raises:
        DatasetError: the champion was measured on a set of this name that is gone; a new one would have other rows.
    """
    identity = plan.evalset(run.recipe)
    if run.plan is None and published(run.home, identity) is None:
        _require_unused(run, identity)
    reads = {"images": data.images, "conditions": data.conditions, "captions": data.captions}
    return stage(run, identity, "evalset", reads=reads)


def _require_unused(run: Run, identity: Identity) -> None:
    model = run.recipe.serve.model_name
    champion = get_alias(model, CHAMPION)
    lineage = json.loads(read_file(model, champion, LINEAGE)) if champion else {}
    known = lineage.get("evalset")
    if isinstance(known, dict) and known.get("dataset") == identity.key:
        message = (
            f"version {champion} of {model} was measured on the set {run.recipe.evaluate.set}, which is no longer in "
            f"{run.home.uri}; restore {identity.key}, or choose other rows under a new name (evaluate.set)"
        )
        raise DatasetError(message, field="evaluate.set")


def scores_of_version(run: Run, model: str, version: str, evalset: str) -> str:
    """URI of the scores of a registered version on an evaluation set."""
    lineage = json.loads(read_file(model, version, LINEAGE))
    known = lineage.get("samples", {}).get("dataset", "") if _set_of(lineage) == _key(evalset) else ""
    place = f"{REGISTERED}{model}/{version}"
    recipe = as_model(run.recipe, read_recipe_text(read_file(model, version, "recipe.yaml"), place))
    if known and run.home.child(known).exists(MANIFEST):
        samples = f"{run.home.uri}/{known}"
        return measured(run, recipe, samples, evalset)
    log.info("version %s of %s: painting the evaluation set", version, model)
    return scores_of_bundle(run, recipe, place, evalset)


def scores_of_bundle(run: Run, recipe: Recipe, place: str, evalset: str) -> str:
    """URI of the scores of a bundle on an evaluation set.

    Args:
        recipe: from :func:`as_model`.
        place: ``models:/NAME/VERSION`` or a folder that the jobs can read.
    """
    identity = plan.samples_of_bundle(recipe, bundle_identity(place), evalset)
    asked = with_recipe(run, recipe)
    return measured(run, recipe, stage(asked, identity, "samples", reads={"bundle": place}), evalset)


def measured(run: Run, recipe: Recipe, samples: str, evalset: str) -> str:
    """URI of the scores of samples, by the judges of ``recipe``."""
    return stage(with_recipe(run, recipe), plan.scores(recipe, samples, evalset), "scores")


def as_model(judging: Recipe, model: Recipe) -> Recipe:
    """The recipe that paints as ``model`` says and judges as ``judging`` says."""
    components = model.components.model_copy(
        update={role: getattr(judging.components, role) for role in ("clip", "parser", "sketcher")}
    )
    data = judging.data.model_copy(
        update={name: getattr(model.data, name) for name in ("mask_resize", "text_padding", "max_megapixels")}
    )
    taken: dict[str, Any] = {name: getattr(model, name) for name in ("sampling", "phases", "model", "objective")}
    return judging.model_copy(update={**taken, "components": components, "data": data})


def with_recipe(run: Run, recipe: Recipe) -> Run:
    """The run with another recipe for its jobs."""
    return run if recipe == run.recipe else replace(run, recipe=recipe, recipe_uri=save_recipe(run.home, recipe))


def evalset_of(bundle: str) -> str:
    """URI of the evaluation set that a published ``bundle`` was measured on."""
    return str(open_dataset(open_dataset(bundle).manifest.inputs["scores"]).manifest.inputs["evalset"])


def _set_of(lineage: dict[str, Any]) -> str:
    return str(lineage.get("evalset", {}).get("dataset", "none"))


def _key(uri: str) -> str:
    return "/".join(uri.rstrip("/").split("/")[-3:])
