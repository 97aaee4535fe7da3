"""The inventory of a home: its datasets, which others they refer to, and whether their files are intact (§6).

A dataset refers to every ``datasets/<stage>/<fingerprint>`` that its manifest names: in ``inputs``, ``config`` or
``extra``. An unfinished dataset has no manifest; its ledger entries name the inputs of its job.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from mmface.datasets.manifest import MANIFEST, File, Manifest
from mmface.errors import DatasetError
from mmface.store import Entry, Store

FOLDER, LEDGER = "datasets", "ledger"
_NAMED = re.compile(rf"{FOLDER}/([\w.-]+)/([0-9a-f]{{16}})")

State = Literal["published", "unfinished", "damaged"]


@dataclass(frozen=True)
class Held:
    """One dataset folder of a home.

    Attributes:
        key: ``datasets/<stage>/<fingerprint>``, relative to the home.
        state: ``unfinished`` without a manifest, ``damaged`` if the manifest cannot be read.
        size: bytes of all its files.
        modified: when it was published, or, if unfinished, when its newest file was written; seconds since the epoch.
        references: keys of the datasets that it refers to.
    """

    key: str
    state: State
    size: int
    modified: float
    manifest: Manifest | None = None
    references: tuple[str, ...] = ()

    @property
    def stage(self) -> str:
        """The stage that made it."""
        return self.key.split("/")[1]

    @property
    def name(self) -> str:
        """``<stage>/<fingerprint>``: its name on the command line."""
        return self.key.removeprefix(f"{FOLDER}/")

    @property
    def rows(self) -> int | None:
        """Number of rows in ``data/``; None without a readable manifest."""
        if self.manifest is None:
            return None
        return sum(file.rows or 0 for file in self.manifest.files if file.path.startswith("data/"))


@dataclass(frozen=True)
class Damage:
    """A file that differs from its entry in the manifest."""

    path: str
    reason: str


def scan(home: Store) -> list[Held]:
    """Every dataset of ``home``, sorted by stage, then oldest first."""
    files: dict[str, list[Entry]] = {}
    for entry in home.list(FOLDER):
        parts = entry.key.split("/")
        if len(parts) > 3:
            files.setdefault("/".join(parts[:3]), []).append(entry)
    ledger = _ledger(home)
    held = [_held(home, key, entries, ledger) for key, entries in files.items()]
    return sorted(held, key=lambda one: (one.stage, one.modified, one.key))


def held_at(home: Store, key: str) -> Held:
    """The dataset ``datasets/<stage>/<fingerprint>``, without reading the others of the home."""
    return _held(home, key, home.list(key), {})


def find(held: Iterable[Held], name: str) -> Held:
    """The dataset that ``name`` means: a URI, ``stage/fingerprint``, ``stage``, or the first digits of a fingerprint.

    Raises:
        DatasetError: no dataset or more than one matches.
    """
    held = list(held)
    named = _NAMED.search(name)
    stage, _, start = name.strip("/").rpartition("/")
    fitting = [
        one
        for one in held
        if (named and one.key == named[0])
        or (not named and stage in ("", one.stage) and one.key.split("/")[2].startswith(start))
        or one.stage == name.strip("/")
    ]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        known = ", ".join(one.name for one in fitting[:6])
        raise DatasetError(f"{name!r} matches {len(fitting)} datasets: {known}; name one of them", field="dataset")
    raise DatasetError(f"no dataset {name!r} in this home; mmface datasets list shows all", field="dataset")


def lineage(held: Iterable[Held], one: Held) -> Iterator[tuple[int, str, Held | None]]:
    """``one`` and everything it was made from, depth first: (depth, key, dataset or None if it was removed)."""
    known = {other.key: other for other in held}
    seen: set[str] = set()

    def visit(key: str, depth: int) -> Iterator[tuple[int, str, Held | None]]:
        yield depth, key, known.get(key)
        if key in known and key not in seen:
            seen.add(key)
            for reference in known[key].references:
                yield from visit(reference, depth + 1)

    yield from visit(one.key, 0)


def damages(home: Store, one: Held) -> Iterator[Damage]:
    """Files of a published dataset that are missing or differ from the manifest; reads all files, 1 MiB at a time."""
    if one.state == "damaged":
        yield Damage(MANIFEST, "cannot be read")
    store = home.child(one.key)
    for file in one.manifest.files if one.manifest else ():
        reason = _damage(store, file)
        if reason:
            yield Damage(file.path, reason)


def _held(home: Store, key: str, entries: list[Entry], ledger: Mapping[str, str]) -> Held:
    size = sum(entry.size for entry in entries)
    published = next((entry for entry in entries if entry.key == f"{key}/{MANIFEST}"), None)
    if published is None:
        jobs = "".join(text for name, text in ledger.items() if job_of(key) in name)
        return Held(key, "unfinished", size, max(entry.modified for entry in entries), None, _others(jobs, key))
    try:
        manifest = Manifest.model_validate_json(home.read(published.key))
    except ValidationError:
        return Held(key, "damaged", size, published.modified)
    text = manifest.model_dump_json(exclude={"files"})
    return Held(key, "published", size, published.modified, manifest, _others(text, key))


def _ledger(home: Store) -> dict[str, str]:
    return {entry.key: home.read(entry.key).decode() for entry in home.list(LEDGER)}


def job_of(key: str) -> str:
    """The part of a job's name that is common to all ledger entries of the dataset ``key``."""
    return "-".join(key.split("/")[1:])


def named_in(text: str) -> list[str]:
    """Keys of the datasets that ``text`` names."""
    return [match[0] for match in _NAMED.finditer(text)]


def _others(text: str, key: str) -> tuple[str, ...]:
    return tuple(other for other in dict.fromkeys(named_in(text)) if other != key)


def _damage(store: Store, file: File) -> str:
    digest, size = hashlib.sha256(), 0
    try:
        for piece in store.chunks(file.path):
            digest.update(piece)
            size += len(piece)
    except DatasetError:
        return "missing"
    if size != file.size:
        return f"{size} bytes instead of {file.size}"
    return "" if digest.hexdigest() == file.sha256 else "its checksum differs"
