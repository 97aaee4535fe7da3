"""A stage over the parts of its input, each written once and by one atomic write (§6).

A part is one Parquet file: the rows that came out in its table, the rows that were set aside in its footer. It is
written only where none is, so a part is either not there or finished, and a slower twin changes nothing. Its receipt
in ``work/`` (rows, checksum) is what publishing reads instead of the file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from mmface.datasets.dataset import Dataset, Publisher, open_dataset
from mmface.datasets.journal import Journal
from mmface.datasets.manifest import File, Identity
from mmface.datasets.records import ORIGIN, QUARANTINE
from mmface.datasets.reuse import NAMED_BY_ID, Known, origin_of
from mmface.datasets.stage import Row, Stage, is_filtered
from mmface.errors import DatasetError, StageError
from mmface.store import Store
from mmface.store.tables import read_rows, to_parquet

DATA = "data"
READ = "work/read"  # what ``images`` has read before it is known which rows are duplicates
SET_ASIDE = "set_aside"
LOADING = "loading its networks"


class Receipt(BaseModel):
    """What a finished part holds."""

    model_config = ConfigDict(frozen=True)

    file: File
    reused: int
    quarantined: list[Row]


def commit(
    store: Store, path: str, rows: Sequence[Row], schema: pa.Schema, quarantined: Sequence[Row] = (), reused: int = 0
) -> None:
    """Writes a part, then its receipt; where the part is there already, the one who wrote it writes the receipt."""
    footer = {SET_ASIDE: json.dumps(list(quarantined))} if quarantined else None
    data = to_parquet(rows, schema, footer)
    if store.write(path, data, if_absent=True):
        _write_receipt(store, Receipt(file=File.of(path, data), reused=reused, quarantined=list(quarantined)))


def discard(store: Store, path: str) -> None:
    """Removes a part, to have it made again; its receipt first, which must not outlive it."""
    store.delete(_receipt_key(path))
    store.delete(path)


def receipt_of(store: Store, path: str) -> Receipt:
    """The receipt of a finished part; made of the part where its writer died before it wrote one."""
    with suppress(DatasetError):
        return Receipt.model_validate_json(store.read(_receipt_key(path)))
    with store.open(path) as file:
        footer = pq.read_schema(file).metadata or {}
    with Journal(store, PurePosixPath(path).name) as journal:
        reused = journal.record.reused
    receipt = Receipt(
        file=File.stored(store, path), reused=reused, quarantined=json.loads(footer.get(SET_ASIDE.encode(), b"[]"))
    )
    _write_receipt(store, receipt)
    return receipt


def _write_receipt(store: Store, receipt: Receipt) -> None:
    store.write(_receipt_key(receipt.file.path), receipt.model_dump_json().encode())


def _receipt_key(path: str) -> str:
    return f"work/receipts/{path}.json"


class Worker(Protocol):
    """What makes one part after the other."""

    def run(self, part: str) -> int:
        """Makes ``part`` and returns its number of rows; tells a :class:`Journal` what could kill this process."""
        ...


class Runner:
    """Makes parts in this process, each once; builds its worker when the first part needs one."""

    def __init__(self, store: Store, folder: str, make: Callable[[], Worker]) -> None:
        self.store = store
        self.folder = folder
        self.make = make
        self.worker: Worker | None = None

    def run(self, part: str) -> int:
        """Rows of ``part``; 0 if it is finished already."""
        if self.store.exists(f"{self.folder}/{part}"):
            return 0
        if self.worker is None:
            with Journal(self.store, f"{part}-worker") as journal:
                journal.enter(LOADING)
                self.worker = self.make()
        return self.worker.run(part)


class PartWorker:
    """One part of the inputs through a stage; copies the rows that an earlier dataset holds and maps the others."""

    folder = DATA
    key = "id"  # the column that names a row, before and after

    def __init__(self, identity: Identity, store: Store, stage: Stage) -> None:
        self.publisher = Publisher(store, identity)
        self.inputs = [open_dataset(uri) for uri in identity.inputs.values()]
        self.stage = stage
        self.known = Known(self.publisher.store, stage.schema)

    def rows(self, part: str, columns: Sequence[str] = ()) -> list[Row]:
        """The part's rows: every input's part of the same name, joined by id; by default all columns."""
        return read_part(self.inputs, part, columns)

    def run(self, part: str) -> int:
        """Makes one part."""
        store = self.publisher.store
        with Journal(store, part) as journal:
            rows, known = look_up(partial(self.rows, part), self.stage.reads, self.known)
            todo = [row for row in rows if row[ORIGIN[0]] not in known]
            result = journal.map(self.stage, todo, self.key, reused=len(known))
            origins = {row[self.key]: row[ORIGIN[0]] for row in rows}
            made = [{**row, ORIGIN[0]: origins[row[self.key]]} for row in result.rows]
            place = {name: i for i, name in enumerate(origins)}
            out, aside = (
                sorted(some, key=lambda row: place[row[self.key]])
                for some in ([*known.values(), *made], result.quarantined)
            )
            names = sorted(row[self.key] for row in (*out, *aside))
            assert names == sorted(row[self.key] for row in rows), f"{self.stage.name} lost or doubled rows of {part}"
            commit(store, f"{self.folder}/{part}", out, self.stage.schema, aside, len(known))
        return len(rows)


def look_up(
    read: Callable[[Sequence[str]], list[Row]], reads: Sequence[str], known: Known
) -> tuple[list[Row], dict[bytes, Row]]:
    """A part's rows with their origins, and what is known by these; pictures are read only for the others.

    Args:
        read: the part's rows with these columns at least.
        reads: the columns that the stage reads.
        known: where to look.
    """

    def with_origins(columns: Sequence[str]) -> list[Row]:
        return [{**row, ORIGIN[0]: origin_of(row, reads)} for row in read(columns)]

    found: dict[bytes, Row] = {}
    if len(known):
        rows = with_origins([name for name in reads if name != NAMED_BY_ID])
        found = known.rows([row[ORIGIN[0]] for row in rows])
        if len(found) == len(rows):
            return rows, found
    return with_origins(reads), found


def read_part(inputs: Sequence[Dataset], part: str, columns: Sequence[str] = ()) -> list[Row]:
    """Rows of the inputs' parts of the same name, joined by id: ``columns`` and what names a row; by default all."""
    if not columns:
        return join_parts(inputs, part)
    wanted = {"id", "uri", *columns}
    return join_parts(inputs, part, [[name for name in one.columns if name in wanted] for one in inputs])


def join_parts(inputs: Sequence[Dataset], part: str, columns: Sequence[list[str] | None] = ()) -> list[Row]:
    """Rows of the first input's part that every other input has too, columns together.

    Args:
        columns: what to read of each input; by default everything.
    """
    wanted = columns or [None] * len(inputs)
    base, *others = (
        dataset.part(f"{DATA}/{part}", some).to_pylist() for dataset, some in zip(inputs, wanted, strict=True)
    )
    joined = {row["id"]: row for row in base}
    for rows in others:
        found = {row["id"]: row for row in rows}
        # Later inputs win: the mask of ``conditions`` stands for the one that came with the photograph.
        joined = {key: {**row, **found[key]} for key, row in joined.items() if key in found}
    return list(joined.values())


def part_names(dataset: Dataset) -> list[str]:
    """Names of a dataset's parts, in order."""
    return [PurePosixPath(file.path).name for file in dataset.parts()]


@dataclass(frozen=True)
class Tally:
    """What the finished parts of a stage hold together."""

    counts: dict[str, int]
    extra: dict[str, int]
    files: list[File]


def reconcile(publisher: Publisher, parts: Sequence[str], folder: str = DATA) -> Tally:
    """Counts what the parts hold, those of earlier attempts too, and writes ``quarantine/`` of what they set aside.

    Deletes files of ``folder`` that are no part of this plan: another version of the code may have divided the rows in
    another way, and publishing would list both.
    """
    out = quarantined = filtered = reused = 0
    files = []
    stale = publisher.finished("quarantine") | publisher.finished(folder)
    for part in parts:
        stale.discard(f"{folder}/{part}")
        receipt = receipt_of(publisher.store, f"{folder}/{part}")
        out += receipt.file.rows or 0
        unwanted = sum(is_filtered(row["error"]) for row in receipt.quarantined)
        filtered += unwanted
        quarantined += len(receipt.quarantined) - unwanted
        reused += receipt.reused
        files.append(receipt.file)
        if receipt.quarantined:
            path = f"quarantine/{part}"
            publisher.write(path, to_parquet(receipt.quarantined, QUARANTINE))
            stale.discard(path)
    for path in stale:
        publisher.store.delete(path)
    rows = out + quarantined + filtered
    counts = {"in": rows, "out": out, "quarantined": quarantined, "duplicates": 0, "filtered": filtered}
    return Tally(counts, {"reused": reused, "computed": rows - reused}, files)


def check_budget(publisher: Publisher, counts: Mapping[str, int], max_quarantined: float) -> None:
    """Raises StageError with the commonest reasons when more rows were set aside than the recipe allows.

    The quarantine stays where it is, for whoever mends the cause and has the rows made again.
    """
    if counts["out"] and counts["quarantined"] <= max_quarantined * counts["in"]:
        return
    keys = sorted(publisher.finished("quarantine"))
    rows = [row for key in keys for row in read_rows(publisher.store.read(key)) if not is_filtered(row["error"])]
    reasons = Counter(row["message"] for row in rows)
    first = {row["message"]: row["uri"] or row["id"] for row in reversed(rows)}
    told = [f"{count}x {reason}, first {first[reason]}" for reason, count in reasons.most_common(3)]
    top = "; ".join([*told, "mmface quarantine list names all"] if told else ["no row was left"])
    raise StageError(
        f"{counts['quarantined']} of {counts['in']} rows were set aside, more than data.max_quarantined "
        f"{max_quarantined:g} allows ({top})",
        field=publisher.identity.stage,
    )
