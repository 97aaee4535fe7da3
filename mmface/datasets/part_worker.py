"""Workers that map the parts of a stage's inputs to parts of its output (§6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from mmface.datasets.dataset import Publisher, open_dataset
from mmface.datasets.journal import Journal
from mmface.datasets.manifest import Identity
from mmface.datasets.parts import DATA, commit, read_part
from mmface.datasets.records import ORIGIN
from mmface.datasets.reuse import NAMED_BY_ID, Known, origin_of
from mmface.datasets.stage import Row, Stage
from mmface.store import Store

LOADING = "loading its networks"


class Worker(Protocol):
    """Makes one part per call."""

    def run(self, part: str) -> int:
        """Makes ``part`` and returns its number of rows; notes in a :class:`Journal` what could kill this process."""
        ...


class Runner:
    """Runs the parts of a stage in this process, each once; creates its worker when the first part needs one."""

    def __init__(self, store: Store, folder: str, make: Callable[[], Worker]) -> None:
        self.store = store
        self.folder = folder
        self.make = make
        self.worker: Worker | None = None

    def run(self, part: str) -> int:
        """Makes ``part`` and returns its number of rows; 0 if the part exists already."""
        if self.store.exists(f"{self.folder}/{part}"):
            return 0
        if self.worker is None:
            with Journal(self.store, f"{part}-worker") as journal:
                journal.enter(LOADING)
                self.worker = self.make()
        return self.worker.run(part)


class PartWorker:
    """Maps a part of the inputs with a stage: copies the rows that an earlier dataset has, computes the others."""

    folder = DATA
    key = "id"  # the column that names a row, in the input and in the output

    def __init__(self, identity: Identity, store: Store, stage: Stage) -> None:
        self.publisher = Publisher(store, identity)
        self.inputs = [open_dataset(uri) for uri in identity.inputs.values()]
        self.stage = stage
        self.known = Known(self.publisher.store, stage.schema)

    def rows(self, part: str, columns: Sequence[str] = ()) -> list[Row]:
        """The input rows of ``part``: see :func:`~mmface.datasets.parts.read_part`."""
        return read_part(self.inputs, part, columns)

    def run(self, part: str) -> int:
        """Makes one part and returns its number of input rows."""
        store = self.publisher.store
        with Journal(store, part) as journal:
            rows, known = look_up(partial(self.rows, part), self.stage.reads, self.known)
            todo = [row for row in rows if row[ORIGIN[0]] not in known]
            result = journal.map(self.stage, todo, self.key, reused=len(known))
            origins = {row[self.key]: row[ORIGIN[0]] for row in rows}
            made = [{**row, ORIGIN[0]: origins[row[self.key]]} for row in result.rows]
            place = {name: i for i, name in enumerate(origins)}
            out, quarantined = (
                sorted(some, key=lambda row: place[row[self.key]])
                for some in ([*known.values(), *made], result.quarantined)
            )
            names = sorted(row[self.key] for row in (*out, *quarantined))
            assert names == sorted(row[self.key] for row in rows), f"{self.stage.name} lost or doubled rows of {part}"
            commit(store, f"{self.folder}/{part}", out, self.stage.schema, quarantined, len(known))
        return len(rows)


def look_up(
    read: Callable[[Sequence[str]], list[Row]], reads: Sequence[str], known: Known
) -> tuple[list[Row], dict[bytes, Row]]:
    """The input rows of a part, each with its origin, and the output rows that are known already, by origin.

    Images are read only if some row is not known.

    Args:
        read: reads the part's rows with at least the given columns.
        reads: the columns that the stage reads.
        known: the rows of earlier datasets.
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
