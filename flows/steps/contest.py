"""The champion's scores on the evaluation set of a challenger: found, or painted and measured now (§8)."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

from flows.cluster.jobs import save_recipe
from flows.steps.line import Run, stage
from mmface import plan
from mmface.bundles.lineage import LINEAGE
from mmface.bundles.registry import read_file
from mmface.bundles.weights import REGISTERED, bundle_identity
from mmface.config import Recipe
from mmface.config.load import read_recipe_text
from mmface.datasets.dataset import open_dataset
from mmface.datasets.manifest import MANIFEST

log = logging.getLogger(__name__)


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
