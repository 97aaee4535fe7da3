"""Whether a run that starts from a registered version has anything new to learn (§1)."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

from flows.steps.line import Plan, Run, prepare_data, train_phases, with_collection
from mmface import plan
from mmface.bundles.lineage import LINEAGE
from mmface.bundles.registry import read_file
from mmface.bundles.weights import registered
from mmface.datasets.dataset import published

log = logging.getLogger(__name__)


def already_learnt(run: Run) -> str | None:
    """The version to start from, if it was trained on these photographs with this recipe; else None.

    A start that follows an alias changes with each promotion, and with it the fingerprints of what the run would train:
    looked up by fingerprint, nothing would ever be found and the run would train every night. So the fingerprints are
    computed with the start that the version itself had, and looked up in the lineage of the version. Another evaluation
    set, judge or sampler is nothing to learn. Runs whose start does not follow an alias are not checked: their
    fingerprints do not change.
    """
    if not run.follows or (not run.recipe.sources and published(run.home, plan.portraits(run.recipe)) is None):
        return None
    model, version = registered(run.follows)
    lineage = json.loads(read_file(model, version, LINEAGE))
    wanted = Plan(lineage)
    planned = replace(with_collection(run), plan=wanted)
    train_phases(planned, prepare_data(planned))
    known = {entry["dataset"] for entry in lineage.values() if isinstance(entry, dict) and "dataset" in entry}
    new = [key for key in wanted.keys if key not in known]
    if new:
        log.info("new since version %s of %s: dataset %s", version, model, new[0])
        return None
    return version
