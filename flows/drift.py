"""Measures drift for the flow ``watch``: of new photographs and of served prompts against the champion's training set.

The figures are stored in the home, where the service reads them for its gauges (:mod:`serve.deploy.drift`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event
from prefect.runtime import flow_run

from flows.cluster.jobs import save_recipe
from flows.steps.line import Run, stage
from mmface import plan
from mmface.bundles.lineage import LINEAGE
from mmface.bundles.registry import get_alias, read_file
from mmface.bundles.tracking import tracking_exists
from mmface.config import Recipe
from mmface.data.prompt_counts import GROUP, group_captions, read_counts
from mmface.datasets.dataset import Dataset, open_dataset
from mmface.datasets.manifest import MANIFEST, Identity
from mmface.datasets.records import DRIFT, unpack
from mmface.evaluate.drift import Drift, Measured, compare, likeness, read_measured, write_measured
from mmface.networks.hub import pin_components
from mmface.store import Store

log = logging.getLogger(__name__)

DETECTED = "mmface.drift.detected"
UNLIKE = 5  # new photographs that are listed as least like the training set

Kind = Literal["photographs", "prompts"]


@dataclass(frozen=True)
class Learnt:
    """What the champion was trained on."""

    version: str
    images: Dataset
    captions: Dataset


@dataclass(frozen=True)
class Watched:
    """What one run of the flow ``watch`` measures with.

    Attributes:
        payload: recipe and overrides as the flow was given them, for events.
    """

    recipe: Recipe
    home: Store
    learnt: Learnt
    payload: Mapping[str, Any]

    @property
    def model(self) -> str:
        """Name of the registered model."""
        return self.recipe.serve.model_name


def learnt_by_champion(recipe: Recipe, home: Store) -> Learnt | None:
    """The datasets in the champion's lineage; None, with the reason in the log, if there is nothing to compare with.

    Raises:
        MMFaceError: the registry does not answer.
    """
    model = recipe.serve.model_name
    version = get_alias(model, recipe.serve.alias) if tracking_exists() else None
    if version is None:
        log.info("drift: %s has no %s yet, so there is no training set to compare with", model, recipe.serve.alias)
        return None
    lineage = json.loads(read_file(model, version, LINEAGE))
    keys = [lineage.get(name, {}).get("dataset", "") for name in ("images", "captions")]
    missing = [key or "photographs" for key in keys if not key or not home.exists(f"{key}/{MANIFEST}")]
    if missing:
        message = "drift: not measured, because the training set of version %s of %s is not in this home: %s"
        log.warning(message, version, model, ", ".join(missing))
        return None
    images, captions = (open_dataset(home.child(key).uri) for key in keys)
    return Learnt(version, images, captions)


def measure_photographs(watched: Watched, present: Identity) -> None:
    """Compares the photographs that the collections hold now with the training set, once for each content.

    Args:
        present: of the ``images`` dataset of the present content; it is prepared if it is not published.
    """
    training = watched.learnt.images
    found = read_measured(watched.home, watched.model)
    before = found.get("photographs")
    if present.fingerprint == training.manifest.fingerprint:
        log.info("drift: version %s was trained on the present photographs", watched.learnt.version)
        if before:
            write_measured(watched.home, watched.model, {kind: one for kind, one in found.items() if one is not before})
        return
    if before and (before.content, before.training) == (present.fingerprint, training.manifest.fingerprint):
        return
    recipe = pin_components(watched.recipe, plan.COMPONENTS["drift"])
    run = Run(recipe, save_recipe(watched.home, recipe), watched.home, None, str(flow_run.id or ""))
    images = stage(run, present, "images")
    sampled = open_dataset(stage(run, plan.drift(recipe, images, training.uri), "drift"))
    table = sampled.table() if sampled.parts() else DRIFT.empty_table()
    new, old = (table.filter(pc.equal(table["new"], side)) for side in (True, False))
    vectors = unpack(new["features"]), unpack(old["features"])
    drift = compare(*vectors, recipe.drift.level, recipe.drift.min_distance)
    announced = before is not None and before.announced and before.content == present.fingerprint
    rows = _least_alike(new, *vectors) if drift.verdict == "drifted" else []
    facts = {"images": present.fingerprint, "unlike": rows}
    _conclude(watched, "photographs", drift, present.fingerprint, announced=announced, facts=facts)


def measure_prompts(watched: Watched) -> None:
    """Compares the prompts that the service counted with the training captions, whenever there are new counts."""
    drift, learnt = watched.recipe.drift, watched.learnt
    newest, counts = read_counts(watched.home, watched.model, drift.rows)
    before = read_measured(watched.home, watched.model).get("prompts")
    training = learnt.captions.manifest.fingerprint
    if not newest or (before and (before.content, before.training) == (newest, training)):
        return
    splits = learnt.images.table(["id", "split"]).to_pylist()
    train = {row["id"] for row in splits if row["split"] == "train"}
    captions = learnt.captions.table(["id", "captions"]).to_pylist()
    known = group_captions((row["captions"] for row in captions if row["id"] in train), drift.rows, watched.recipe.seed)
    found = compare(counts / GROUP, known / GROUP, drift.level, drift.min_prompt_distance)
    # Counts arrive all the time: an event is emitted when drift begins, not with each file.
    lasting = before is not None and before.announced and before.training == training
    _conclude(watched, "prompts", found, newest, announced=lasting and found.verdict != "not drifted", facts={})


def _conclude(
    watched: Watched, kind: Kind, drift: Drift, content: str, *, announced: bool, facts: Mapping[str, Any]
) -> None:
    """Shows a comparison, emits the event if there is drift that was not announced before, and stores the figures."""
    training = watched.learnt.images if kind == "photographs" else watched.learnt.captions
    text = describe(kind, drift, watched.learnt.version)
    log.info("drift: %s", text.replace("\n\n", " ").replace("`", ""))
    _show(kind, drift, text, facts.get("unlike", ()))
    if drift.verdict == "drifted" and not announced:
        figures = drift.model_dump(mode="json", include={"distance", "p_value", "n", "m"})
        resource = {"prefect.resource.id": f"mmface.drift.{watched.model}", "mmface.of": kind}
        payload = {**watched.payload, "of": kind, "version": watched.learnt.version, **figures, **facts}
        emit_event(DETECTED, resource, payload=payload)
        announced = True
    measured = Measured(
        content=content,
        training=training.manifest.fingerprint,
        version=watched.learnt.version,
        announced=announced,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        drift=drift,
    )
    write_measured(watched.home, watched.model, {**read_measured(watched.home, watched.model), kind: measured})


def describe(kind: Kind, drift: Drift, version: str) -> str:
    """What a comparison found and what it means, as Markdown."""
    unit = "photographs" if kind == "photographs" else f"groups of {GROUP} prompts"
    counted = f"{drift.n} new {unit} against {drift.m} of the training set of version {version}"
    if drift.distance is None:
        least = f"; {drift.needed} would do" if drift.needed else ""
        return f"cannot tell: {counted} are too few{least}"
    figures = f"distance {drift.distance:.4f}, p = {drift.p_value:.4f}"
    if drift.verdict == "drifted":
        return f"{kind} have drifted: {figures} ({counted})"
    if drift.verdict == "not drifted":
        return f"{kind} have not drifted by {drift.min_distance:g} or more: {figures} ({counted})"
    needed = f"a distance of {drift.min_distance:g} would be found with {drift.needed} new {unit}"
    return f"cannot tell whether {kind} have drifted: {figures} ({counted}); {needed}"


def _show(kind: Kind, drift: Drift, text: str, unlike: Sequence[str]) -> None:
    """The Prefect artifact ``drift-photographs`` or ``drift-prompts``."""
    rows = [
        ("Squared MMD (0: equal, 2: most)", _number(drift.distance)),
        ("p-value of the permutation test", _number(drift.p_value)),
        (f"Distance that chance exceeds in {1 - drift.level:.1%} of comparisons", _number(drift.critical)),
        ("Smallest distance that counts as drift", _number(drift.min_distance)),
        ("New rows", str(drift.n)),
        ("Training rows", str(drift.m)),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    listed = "".join(f"\n- `{uri}`" for uri in unlike)
    least = f"\n\nLeast like the training set:\n{listed}" if listed else ""
    create_markdown_artifact(f"# {text}\n\n| figure | value |\n| --- | --- |\n{table}{least}", f"drift-{kind}")


def _least_alike(table: pa.Table, new: Any, old: Any) -> list[str]:
    """Addresses of the new photographs that are least like the training photographs."""
    order = np.argsort(likeness(new, old), kind="stable")[:UNLIKE]
    return [str(table["uri"][int(place)].as_py()) for place in order]


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"
