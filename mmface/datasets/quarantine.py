"""Rows that were set aside (§6): which, why, and doing them again.

Datasets never change once published, so a replay is one of two things. An *unfinished* dataset loses the parts that
hold such rows, and the next run of its stage does these parts again. A *published* one gets a successor: the same
identity with the next ``replay`` number (``data.replay`` of the recipe). Its run copies every row that came out before,
as a grown collection does, and so does the rows that were set aside, and only these. A source file that was mended
needs neither: its bytes are part of the identity of ``images``, and the next run makes a new dataset.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from mmface.datasets.dataset import published
from mmface.datasets.inventory import Held
from mmface.datasets.manifest import REPLAY, Identity, Manifest
from mmface.datasets.parts import DATA, READ, discard
from mmface.datasets.stage import VERSIONS, Row, is_filtered
from mmface.errors import DatasetError
from mmface.store import Store
from mmface.store.tables import read_rows

COLUMNS = ["id", "uri", "stage", "error", "message"]


@dataclass(frozen=True)
class Reason:
    """Rows that were set aside alike; messages that differ in numbers alone count as one, ``message`` is the first."""

    error: str
    message: str
    uris: tuple[str, ...]


@dataclass(frozen=True)
class Replay:
    """What the next run will do again.

    Attributes:
        key: the dataset that it will work on.
        rows: how many had been set aside.
        number: ``data.replay`` of the stage that makes the recipe mean this dataset; 0 when it does already.
    """

    key: str
    rows: int
    number: int = 0


def set_aside(home: Store, one: Held) -> dict[str, list[Row]]:
    """Rows {id, uri, stage, error, message} that ``one`` set aside, by part; parts without such rows are left out."""
    store = home.child(one.key)
    keys = [entry.key for entry in store.list("quarantine") if entry.key.endswith(".parquet")]
    found = {PurePosixPath(key).name: read_rows(store.read(key), COLUMNS) for key in keys}
    return {part: rows for part, rows in found.items() if rows}


def by_reason(rows: Iterable[Row]) -> list[Reason]:
    """Rows grouped by why they were set aside, the commonest first."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["error"], re.sub(r"\d+", "#", row["message"])), []).append(row)
    reasons = [
        Reason(error, alike[0]["message"], tuple(row["uri"] or row["id"] for row in alike))
        for (error, _), alike in groups.items()
    ]
    return sorted(reasons, key=lambda reason: -len(reason.uris))


def replay(home: Store, one: Held) -> Replay:
    """Prepares another attempt at the rows that ``one`` set aside; see the module for what that means.

    Must not run while the stage does. May be repeated, whenever it was interrupted.

    Raises:
        DatasetError: no unusable row was set aside, the replay is published already, or the stage's code has changed
            since (then the next run makes a new dataset anyway).
    """
    # A filtered row is sound and not wanted: another attempt would filter it again.
    unusable = {
        part: sum(not is_filtered(row["error"]) for row in found) for part, found in set_aside(home, one).items()
    }
    rows = sum(unusable.values())
    if not rows:
        raise DatasetError(f"{one.name} set no unusable row aside: there is nothing to replay", field="dataset")
    if one.manifest is not None:
        return _succeed(home, one.manifest, rows)
    _drop(home.child(one.key), [part for part, count in unusable.items() if count])
    return Replay(one.key, rows)


def _drop(store: Store, parts: Sequence[str]) -> None:
    """Removes finished parts of an unfinished dataset. The reasons go last: until then a replay can be repeated."""
    folders = [DATA]
    if store.list(READ):
        # Which rows are duplicates was decided over all parts: what was read stays, the decision does not.
        folders = [READ]
        for entry in store.list(DATA):
            discard(store, entry.key)
    for folder in (*folders, "quarantine"):
        for part in parts:
            discard(store, f"{folder}/{part}")


def _succeed(home: Store, manifest: Manifest, rows: int) -> Replay:
    now = Identity(
        stage=manifest.stage,
        version=VERSIONS[manifest.stage.partition("-")[0]],
        config=manifest.config,
        inputs=manifest.inputs,
        weights=manifest.weights,
    )
    if now.fingerprint != manifest.fingerprint:
        message = (
            f"{manifest.fingerprint} was made by other code: the next run makes a new dataset, no replay is needed"
        )
        raise DatasetError(message, field=manifest.stage)
    successor = now.attempt(manifest.config.get(REPLAY, 0) + 1)
    number = successor.config[REPLAY]
    if published(home, successor):
        message = f"it was replayed already: set data.replay={{{manifest.stage}: {number}}}, or replay {successor.key}"
        raise DatasetError(message, field=manifest.fingerprint)
    return Replay(successor.key, rows, number)
