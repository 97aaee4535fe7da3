"""What a home holds: its datasets, what refers to them, whether their files are whole, and what nothing needs (§6).

A dataset refers to every ``datasets/<stage>/<fingerprint>`` that its manifest names: inputs, and places that config or
``extra`` record. An unfinished one has no manifest; its entries in the ledger name the inputs of its job.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from mmface.datasets.manifest import MANIFEST, File, Manifest
from mmface.errors import DatasetError
from mmface.store import Entry, Store

FOLDER, LEDGER = "datasets", "ledger"
DAY = 24 * 3600.0
_NAMED = re.compile(rf"{FOLDER}/([\w.-]+)/([0-9a-f]{{16}})")

State = Literal["published", "unfinished", "damaged"]


@dataclass(frozen=True)
class Held:
    """One dataset folder of a home.

    Attributes:
        key: ``datasets/<stage>/<fingerprint>``, relative to the home.
        state: ``unfinished`` without a manifest, ``damaged`` when the manifest cannot be read.
        size: bytes of all its files.
        modified: when it was published, or its newest file was written, in seconds since the epoch.
        references: keys of the datasets that it names.
    """

    key: str
    state: State
    size: int
    modified: float
    manifest: Manifest | None = None
    references: tuple[str, ...] = ()

    @property
    def stage(self) -> str:
        """Stage that made it."""
        return self.key.split("/")[1]

    @property
    def name(self) -> str:
        """``<stage>/<fingerprint>``: how a person names it."""
        return self.key.removeprefix(f"{FOLDER}/")

    @property
    def rows(self) -> int | None:
        """Rows of ``data/``; None when unknown."""
        if self.manifest is None:
            return None
        return sum(file.rows or 0 for file in self.manifest.files if file.path.startswith("data/"))


@dataclass(frozen=True)
class Damage:
    """A listed file that is not what the manifest says."""

    path: str
    reason: str


def scan(home: Store) -> list[Held]:
    """Every dataset of ``home``, by stage, oldest first."""
    files: dict[str, list[Entry]] = {}
    for entry in home.list(FOLDER):
        parts = entry.key.split("/")
        if len(parts) > 3:
            files.setdefault("/".join(parts[:3]), []).append(entry)
    ledger = _ledger(home)
    held = [_held(home, key, entries, ledger) for key, entries in files.items()]
    return sorted(held, key=lambda one: (one.stage, one.modified, one.key))


def find(held: Iterable[Held], name: str) -> Held:
    """The dataset that ``name`` means: a URI, ``stage/fingerprint``, ``stage``, or a fingerprint's first digits.

    Raises:
        DatasetError: none or several fit.
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
        raise DatasetError(f"{name!r} fits {len(fitting)} datasets: {known}; name one", field="dataset")
    raise DatasetError(f"no dataset {name!r} in this home; see mmface datasets list", field="dataset")


def lineage(held: Iterable[Held], one: Held) -> Iterator[tuple[int, str, Held | None]]:
    """What ``one`` was made from, depth first: (depth, key, dataset), None where the dataset was removed."""
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
    """Listed files of a published dataset that are missing or changed; any size is read in pieces of 1 MiB."""
    if one.state == "damaged":
        yield Damage(MANIFEST, "cannot be read")
    store = home.child(one.key)
    for file in one.manifest.files if one.manifest else ():
        reason = _damage(store, file)
        if reason:
            yield Damage(file.path, reason)


def needs(
    held: Iterable[Held],
    models: Mapping[str, object],
    *,
    in_work: Mapping[str, str] | None = None,
    keep_days: float = 0.0,
    now: float | None = None,
) -> dict[str, str]:
    """What must stay, by key, with the reason; everything that it refers to in turn stays for the same reason.

    Roots are the datasets that the lineage of a registered model names, those that work which goes on now names, the
    newest published dataset of each stage, and whatever was written in the last ``keep_days``: a finished dataset
    perhaps waits for the next stage of a run that still goes on.

    Args:
        models: lineage by registered model version.
        in_work: text that names datasets, by what is at work on them.
    """
    held = list(held)
    newest = {one.stage: one for one in held if one.state == "published"}  # oldest first: the last one wins
    since = (time.time() if now is None else now) - keep_days * DAY
    reasons: dict[str, str] = {}
    for model, tree in models.items():
        _reach(held, _named_in(json.dumps(tree)), f"model {model}", reasons)
    for work, text in (in_work or {}).items():
        _reach(held, _named_in(text), work, reasons)
    for one in newest.values():
        _reach(held, [one.key], f"newest {one.stage}", reasons)
    for one in held:
        if one.modified > since:
            _reach(held, [one.key], f"younger than {keep_days:g} days", reasons)
    return reasons


def removable(held: Iterable[Held], needed: Mapping[str, str]) -> list[Held]:
    """What nothing refers to, in the order in which to remove it: a dataset stands before what it was made from.

    Raises:
        DatasetError: a manifest cannot be read, so that nobody knows what it refers to.
    """
    held = list(held)
    damaged = [one.name for one in held if one.state == "damaged"]
    if damaged:
        message = f"the manifest of {', '.join(damaged)} cannot be read: restore it, or delete that folder yourself"
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
    """Deletes a dataset, its manifest first: however this ends, no reader sees a manifest without its files."""
    store = home.child(one.key)
    store.delete(MANIFEST)
    for entry in home.list(LEDGER):
        if _job(one.key) in entry.key:
            home.delete(entry.key)
    for entry in store.list():
        store.delete(entry.key)
    if store.local_path is not None:
        shutil.rmtree(store.local_path, ignore_errors=True)  # empty folders


def _held(home: Store, key: str, entries: list[Entry], ledger: Mapping[str, str]) -> Held:
    size = sum(entry.size for entry in entries)
    published = next((entry for entry in entries if entry.key == f"{key}/{MANIFEST}"), None)
    if published is None:
        told = "".join(text for name, text in ledger.items() if _job(key) in name)
        return Held(key, "unfinished", size, max(entry.modified for entry in entries), None, _others(told, key))
    try:
        manifest = Manifest.model_validate_json(home.read(published.key))
    except ValidationError:
        return Held(key, "damaged", size, published.modified)
    told = manifest.model_dump_json(exclude={"files"})
    return Held(key, "published", size, published.modified, manifest, _others(told, key))


def _ledger(home: Store) -> dict[str, str]:
    return {entry.key: home.read(entry.key).decode() for entry in home.list(LEDGER)}


def _job(key: str) -> str:
    """What the names of a dataset's ledger entries have in common."""
    return "-".join(key.split("/")[1:])


def _named_in(text: str) -> list[str]:
    return [match[0] for match in _NAMED.finditer(text)]


def _others(text: str, key: str) -> tuple[str, ...]:
    return tuple(other for other in dict.fromkeys(_named_in(text)) if other != key)


def _reach(held: list[Held], keys: Iterable[str], reason: str, reasons: dict[str, str]) -> None:
    known = {one.key: one for one in held}
    waiting = list(keys)
    while waiting:
        key = waiting.pop()
        if key in known and key not in reasons:
            reasons[key] = reason
            waiting.extend(known[key].references)


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
