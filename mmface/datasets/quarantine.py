"""Quarantined rows (§6): listing them, grouping them by reason, and replaying them.

Published datasets never change, so a replay is one of two things. From an *unfinished* dataset the parts that contain
quarantined rows are deleted, and the next run of its stage computes these parts again. A *published* dataset gets a
successor: the same identity with the next ``replay`` number (recipe key ``data.replay``). The successor's run reuses
every output row and computes only the quarantined rows again. A source file that was repaired needs no replay: its
bytes are part of the identity of ``images``, so the next run makes a new dataset.
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
    """Rows that were quarantined for the same reason.

    Messages that differ only in numbers count as the same reason; ``message`` is the first of them.
    """

    error: str
    message: str
    uris: tuple[str, ...]


@dataclass(frozen=True)
class Replay:
    """What the next run will replay.

    Attributes:
        key: the dataset that the next run will make.
        rows: number of quarantined rows that it will compute again.
        number: value of ``data.replay`` for the stage that selects this dataset; 0 if the recipe needs no change.
    """

    key: str
    rows: int
    number: int = 0


def set_aside(home: Store, one: Held) -> dict[str, list[Row]]:
    """The quarantined rows {id, uri, stage, error, message} of ``one``, by part; only parts that have some."""
    store = home.child(one.key)
    keys = [entry.key for entry in store.list("quarantine") if entry.key.endswith(".parquet")]
    found = {PurePosixPath(key).name: read_rows(store.read(key), COLUMNS) for key in keys}
    return {part: rows for part, rows in found.items() if rows}


def by_reason(rows: Iterable[Row]) -> list[Reason]:
    """Quarantined rows grouped by reason, the most frequent reason first."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["error"], re.sub(r"\d+", "#", row["message"])), []).append(row)
    reasons = [
        Reason(error, alike[0]["message"], tuple(row["uri"] or row["id"] for row in alike))
        for (error, _), alike in groups.items()
    ]
    return sorted(reasons, key=lambda reason: -len(reason.uris))


def replay(home: Store, one: Held) -> Replay:
    """Prepares a replay of the quarantined rows of ``one``; the module's docstring says what that means.

    Must not run while the stage runs. Safe to repeat if it was interrupted.

    Raises:
        DatasetError: no row is quarantined as unusable, the replay is published already, or the code of the stage has
            changed (then the next run makes a new dataset anyway).
    """
    # A filtered row is valid but unwanted: a replay would filter it again.
    unusable = {
        part: sum(not is_filtered(row["error"]) for row in found) for part, found in set_aside(home, one).items()
    }
    rows = sum(unusable.values())
    if not rows:
        raise DatasetError(f"{one.name} has no unusable rows in quarantine: nothing to replay", field="dataset")
    if one.manifest is not None:
        return _succeed(home, one.manifest, rows)
    _drop(home.child(one.key), [part for part, count in unusable.items() if count])
    return Replay(one.key, rows)


def _drop(store: Store, parts: Sequence[str]) -> None:
    """Deletes finished parts of an unfinished dataset; ``quarantine/`` last, so that an interrupted replay can be
    repeated."""
    folders = [DATA]
    if store.list(READ):
        # Duplicates are decided over all parts: every output part goes, but other parts need not be read again.
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
            f"{manifest.fingerprint} was made by another version of the code: the next run makes a new dataset, "
            "no replay is needed"
        )
        raise DatasetError(message, field=manifest.stage)
    successor = now.attempt(manifest.config.get(REPLAY, 0) + 1)
    number = successor.config[REPLAY]
    if published(home, successor):
        message = f"already replayed: set data.replay={{{manifest.stage}: {number}}}, or replay {successor.key}"
        raise DatasetError(message, field=manifest.fingerprint)
    return Replay(successor.key, rows, number)
