"""Rows that were set aside (§6): which, why, and doing them again.

Datasets never change once published, so a replay is one of two things. An *unfinished* dataset loses the parts that
hold such rows, and the next run of its stage does these parts again. A *published* one gets a successor: the same
identity with the next ``replay`` number (``data.replay`` of the recipe), into which the parts without such rows are
copied; the next run with that recipe does the others. A source file that was mended needs neither: its bytes are part
of the identity of ``images``, and the next run makes a new dataset.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from mmface.data.stage import Row
from mmface.dataset import MANIFEST, REPLAY, Identity, Manifest, open_dataset, published, read_rows
from mmface.errors import DatasetError
from mmface.inventory import Held
from mmface.stages import VERSIONS
from mmface.storage import Store

COLUMNS = ["id", "uri", "stage", "error", "message"]
WHOLE = ("images",)  # which rows are duplicates is decided over all parts: none can be taken over


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
        again: parts that hold them.
        kept: parts that will not be done again.
        number: ``data.replay`` of the stage that makes the recipe mean this dataset; 0 when it does already.
    """

    key: str
    rows: int
    again: tuple[str, ...]
    kept: int
    number: int = 0


def set_aside(home: Store, one: Held) -> dict[str, list[Row]]:
    """Rows {id, uri, stage, error, message} that ``one`` set aside, by the name of their part; parts without are left out.

    An id stands for a photograph without a readable file too: there the ``uri`` names it.
    """
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
        DatasetError: no row was set aside, the replay is published already, or the stage's code has changed since
            (then the next run makes a new dataset anyway).
    """
    aside = set_aside(home, one)
    if not aside:
        raise DatasetError(f"{one.name} set no row aside: there is nothing to replay", field="dataset")
    rows = sum(map(len, aside.values()))
    if one.manifest is not None:
        return _succeed(home, one.manifest, aside, rows)
    store = home.child(one.key)
    parts = {PurePosixPath(entry.key).name for entry in store.list() if entry.key.startswith("quarantine/")}
    # The reasons go last: as long as they are there, an interrupted replay can be repeated.
    for folder in ("work", "data", "quarantine"):
        for part in aside:
            store.delete(f"{folder}/{part}")
    return Replay(one.key, rows, tuple(aside), len(parts - aside.keys()))


def _succeed(home: Store, manifest: Manifest, aside: dict[str, list[Row]], rows: int) -> Replay:
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
    kept = 0 if manifest.stage in WHOLE else _take_over(home, now, successor, aside)
    return Replay(successor.key, rows, tuple(aside), kept, number)


def _take_over(home: Store, now: Identity, successor: Identity, aside: dict[str, list[Row]]) -> int:
    """Copies the parts without rows that were set aside; the part's data last, for it marks the part as finished."""
    dataset, target = open_dataset(home.child(now.key).uri), home.child(successor.key)
    clean = [file.path for file in dataset.parts() if PurePosixPath(file.path).name not in aside]
    reasons = {file.path for file in dataset.parts("quarantine")}
    assert not target.exists(MANIFEST)
    for path in clean:
        for source in (path.replace("data/", "quarantine/", 1), path):
            if source == path or source in reasons:
                target.write(source, dataset.read(source))
    return len(clean)
