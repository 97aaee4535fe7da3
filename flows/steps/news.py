"""Whether a run that goes on from a registered version has anything new to learn (§1)."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

from flows.steps.line import Plan, Run, paint_and_bundle, prepare_data, train_phases, with_collection
from mmface import plan
from mmface.bundles.lineage import LINEAGE
from mmface.bundles.registry import read_file
from mmface.bundles.weights import registered
from mmface.datasets.dataset import published

log = logging.getLogger(__name__)


def already_learnt(run: Run) -> str | None:
    """The version that the run would go on from, when it was made of these photographs by this recipe; else None.

    Each promotion gives such a run another start, and with it another name for what it would train: found by name, it
    would train every night. So its datasets are named as if it began where that version began, and looked up in that
    version's lineage. Only a start that follows an alias is asked about; others keep their names by themselves.
    """
    if not run.follows or (not run.recipe.sources and published(run.home, plan.portraits(run.recipe)) is None):
        return None
    model, version = registered(run.follows)
    lineage = json.loads(read_file(model, version, LINEAGE))
    there = with_collection(run)
    wanted = Plan(lineage)
    planned = replace(there, plan=wanted)
    data = prepare_data(planned)
    paint_and_bundle(planned, data, train_phases(planned, data))
    known = {entry["dataset"] for entry in lineage.values() if isinstance(entry, dict) and "dataset" in entry}
    new = [key for key in wanted.keys[:-1] if key not in known]  # a bundle's own name is not in its lineage
    if new:
        log.info("new since version %s of %s: %s", version, model, new[0])
        return None
    return version
