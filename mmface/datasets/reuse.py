"""Reuse: a new dataset copies the rows that an earlier dataset computed in the same way from the same input (§6).

Among datasets with the same ``recipe_key`` a row is identified by its ``origin``, SHA-256 over the columns that the
stage read of the input row. The driver writes an index of these rows (16 bytes each) to ``work/``; workers read it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mmface.datasets.dataset import Dataset, open_dataset
from mmface.datasets.manifest import MANIFEST, Identity
from mmface.datasets.records import ADDED, ORIGIN
from mmface.datasets.stage import Row
from mmface.errors import DatasetError
from mmface.store import Store
from mmface.store.tables import read_table

log = logging.getLogger(__name__)

KNOWN = "work/known.parquet"
NAMED_BY_ID = "image"  # the id is the hash of these bytes (§6), so they need not be hashed again
LATEST = 3
READERS = 8

_FIELDS = pa.schema([("key", pa.uint64()), ("file", pa.uint32()), ("row", pa.uint32())])


def origin_of(row: Row, reads: Sequence[str]) -> bytes:
    """SHA-256 over the columns ``reads`` of an input row, by default all; ``image`` is represented by the row's id."""
    digest = hashlib.sha256()
    for name in sorted(set(reads or row) - {NAMED_BY_ID}):
        for piece in (name, *_pieces(row[name])):
            data = piece if isinstance(piece, bytes) else repr(piece).encode()
            digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()


def gather(home: Store, identity: Identity) -> None:
    """Writes to the dataset's ``work/`` an index of the rows of the latest datasets with the same ``recipe_key``.

    Keeps the index of an interrupted attempt.
    """
    work = home.child(identity.key)
    if work.exists(KNOWN):
        return
    found = [(dataset, file.path, file.sha256) for dataset in _latest(home, identity) for file in dataset.parts()]

    def keys(at: tuple[Dataset, str, str]) -> NDArray[np.uint64]:
        try:
            return _keys(at[0].part(at[1], [ORIGIN[0]])[ORIGIN[0]].to_pylist())
        except (DatasetError, pa.ArrowInvalid) as error:
            log.warning("cannot read %s of %s: %s; its rows are computed again", at[1], at[0].uri, error)
            return _keys([])

    with ThreadPoolExecutor(READERS) as pool:
        columns = list(pool.map(keys, found))
    if not columns:
        return
    key = np.concatenate(columns)
    file = np.repeat(np.arange(len(columns), dtype=np.uint32), [len(column) for column in columns])
    row = np.concatenate([np.arange(len(column), dtype=np.uint32) for column in columns])
    order = np.argsort(key, kind="stable")
    files = json.dumps([[dataset.uri, path, sha256] for dataset, path, sha256 in found])
    table = pa.table([key[order], file[order], row[order]], schema=_FIELDS.with_metadata({"files": files}))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    work.write(KNOWN, bytes(sink.getvalue().to_pybytes()))


class Known:
    """The rows that :func:`gather` indexed in ``work`` and that have this ``schema``; empty without an index."""

    def __init__(self, work: Store, schema: pa.Schema) -> None:
        self.schema = schema
        table = pq.read_table(pa.BufferReader(work.read(KNOWN))) if work.exists(KNOWN) else _FIELDS.empty_table()
        self._key, self._file, self._row = (table[name].to_numpy() for name in _FIELDS.names)
        self._files: list[list[str]] = json.loads((table.schema.metadata or {}).get(b"files", b"[]"))
        # The collection is sorted: neighbouring rows are in the same file or the next.
        self._table = lru_cache(maxsize=2)(self._read)

    def __len__(self) -> int:
        return len(self._key)

    def rows(self, origins: Sequence[bytes]) -> dict[bytes, Row]:
        """The rows of those ``origins`` that are known. Rows of a missing or damaged file count as not known."""
        keys = _keys(origins)
        first = np.searchsorted(self._key, keys)
        found = {}
        for origin, at, key in zip(origins, first.tolist(), keys, strict=True):
            if at == len(self._key) or self._key[at] != key:
                continue
            table = self._table(int(self._file[at]))
            # The index holds 64 bits of the origin, which can collide; the row has all of it.
            if table is not None and table[ORIGIN[0]][int(self._row[at])].as_py() == origin:
                found[origin] = table.slice(int(self._row[at]), 1).to_pylist()[0]
        return found

    def _read(self, file: int) -> pa.Table | None:
        uri, path, sha256 = self._files[file]
        try:
            data = Store(uri).read(path)
        except DatasetError:
            log.warning("%s of %s is missing; its rows are computed again", path, uri)
            return None
        if hashlib.sha256(data).hexdigest() != sha256:
            log.warning("%s of %s is damaged; its rows are computed again", path, uri)
            return None
        table = read_table(pa.BufferReader(data))
        for place, field in enumerate(self.schema):
            if field.name in ADDED - set(table.column_names):
                table = table.add_column(place, field, pa.nulls(len(table), field.type))
        return table if table.schema.equals(self.schema) else None


def _latest(home: Store, identity: Identity) -> list[Dataset]:
    """The latest datasets with the same ``recipe_key``, newest first; at most :data:`LATEST`."""
    manifests = [entry for entry in home.list(f"datasets/{identity.stage}") if entry.key.endswith(f"/{MANIFEST}")]
    manifests.sort(key=lambda entry: (entry.modified, entry.key), reverse=True)
    found: list[Dataset] = []
    for entry in manifests:
        dataset = open_dataset(home.child(entry.key.removesuffix(f"/{MANIFEST}")).uri)
        if dataset.manifest.recipe_key == identity.recipe_key:
            found.append(dataset)
        if len(found) == LATEST:
            break
    return found


def _keys(origins: Sequence[bytes]) -> NDArray[np.uint64]:
    return np.frombuffer(b"".join(origin[:8] for origin in origins), dtype=np.uint64)


def _pieces(value: Any) -> Iterator[Any]:
    """What is hashed of a value: of a list its length and items, so that no two values give the same bytes."""
    if isinstance(value, list | tuple):
        yield len(value)
        yield from value
    else:
        yield value
