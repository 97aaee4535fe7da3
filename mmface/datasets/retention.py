"""Retention: which datasets of a home something needs, and the removal of the others (§6)."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Mapping

from mmface.datasets.inventory import LEDGER, Held, job_of, named_in
from mmface.datasets.manifest import MANIFEST
from mmface.errors import DatasetError
from mmface.store import Store

DAY = 24 * 3600.0


def needs(
    held: Iterable[Held],
    models: Mapping[str, object],
    *,
    in_work: Mapping[str, str] | None = None,
    keep_days: float = 0.0,
    now: float | None = None,
) -> dict[str, str]:
    """The datasets that must stay: key → reason. Whatever a needed dataset refers to is needed for the same reason.

    Needed are the datasets in the lineage of a registered model, those that running jobs and flows name, the newest
    published dataset of each stage, and everything written in the last ``keep_days``, since a finished dataset may be
    waiting for the next stage of a run.

    Args:
        models: lineage by registered model version.
        in_work: text that names datasets, by the running job or flow that it belongs to.
    """
    held = list(held)
    newest = {one.stage: one for one in held if one.state == "published"}  # oldest first: the last one wins
    since = (time.time() if now is None else now) - keep_days * DAY
    reasons: dict[str, str] = {}
    for model, tree in models.items():
        _reach(held, named_in(json.dumps(tree)), f"model {model}", reasons)
    for work, text in (in_work or {}).items():
        _reach(held, named_in(text), work, reasons)
    for one in newest.values():
        _reach(held, [one.key], f"newest {one.stage}", reasons)
    for one in held:
        if one.modified > since:
            _reach(held, [one.key], f"younger than {keep_days:g} days", reasons)
    return reasons


def removable(held: Iterable[Held], needed: Mapping[str, str]) -> list[Held]:
    """The datasets that nothing needs, in the order to remove them: each before the datasets it was made from.

    Raises:
        DatasetError: a manifest cannot be read, so that it is unknown which datasets it refers to.
    """
    held = list(held)
    damaged = [one.name for one in held if one.state == "damaged"]
    if damaged:
        message = f"the manifest of {', '.join(damaged)} cannot be read: restore it, or delete the dataset's folder"
        raise DatasetError(message, field=MANIFEST)
    rest = {one.key: one for one in held if one.key not in needed}
    order: dict[str, Held] = {}

    def visit(one: Held) -> None:
        if one.key not in order:
            for reference in one.references:
                if reference in rest:
                    visit(rest[reference])
            order[one.key] = one

    for one in rest.values():
        visit(one)
    return list(reversed(order.values()))


def remove(home: Store, one: Held) -> None:
    """Deletes a dataset, its manifest first: if this is interrupted, no reader finds a manifest without its files."""
    store = home.child(one.key)
    store.delete(MANIFEST)
    for entry in home.list(LEDGER):
        if job_of(one.key) in entry.key:
            home.delete(entry.key)
    for entry in store.list():
        store.delete(entry.key)
    if store.local_path is not None:
        shutil.rmtree(store.local_path, ignore_errors=True)  # empty folders


def _reach(held: list[Held], keys: Iterable[str], reason: str, reasons: dict[str, str]) -> None:
    known = {one.key: one for one in held}
    waiting = list(keys)
    while waiting:
        key = waiting.pop()
        if key in known and key not in reasons:
            reasons[key] = reason
            waiting.extend(known[key].references)
