"""Parquet files with one photograph per row.

Columns: ``image`` (bytes, or a struct with ``bytes``, as in Hugging Face data sets), optionally ``mask`` (the same
types) and ``captions`` (a list of strings, or one string). Listing reads only the footers of the files; a row group is
read when the first of its rows is.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmface.config import Collection
from mmface.data.sources.files import Listing, Places, SourceFile, sift
from mmface.data.sources.names import has_suffix, names_of
from mmface.data.sources.sidecars import split_lists
from mmface.errors import InputError, shown
from mmface.store import Entry, Store

COLUMNS = ("image", "mask", "captions")


@dataclass(frozen=True)
class ParquetRow:
    """One row: the encoded image, and its mask and captions where the row has them."""

    image: bytes
    mask: bytes | None
    captions: tuple[str, ...]


def places(collection: Collection) -> Places:
    """One folder of ``.parquet`` files."""
    return Places(images=Store(collection.images))


def listing(collection: Collection, places: Places) -> Listing:
    """Lists the rows of every file, in order; a ``split`` list names files, and all rows of a file get its split."""
    found, ignored = sift(places.images.list(follow_links=True), lambda key: has_suffix(key, (".parquet",)))
    splits = split_lists(collection.split)
    files: list[SourceFile] = []
    for entry in found:
        split = splits.take(entry.key, names_of(entry.key))
        rows = range(_open(places.images, entry).metadata.num_rows)
        files += [SourceFile(collection.name, entry, row, split=split) for row in rows]
    return Listing(tuple(files), ignored_suffixes=ignored, matches=splits.match())


class ParquetReader:
    """Reads rows by number; caches the last row group, because rows are read in order."""

    def __init__(self, place: Store) -> None:
        self.place = place
        self._group: tuple[str, int] | None = None
        self._table: pa.Table = None
        self._file: tuple[str, pq.ParquetFile] | None = None

    def read(self, entry: Entry, row: int) -> ParquetRow:
        """Reads row ``row`` of the file. Raises InputError if a column has the wrong type or cannot be read."""
        if self._file is None or self._file[0] != entry.key:
            self._file = (entry.key, _open(self.place, entry))
        file = self._file[1]
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        ends = list(accumulate(groups))
        group = bisect.bisect_right(ends, row)
        if self._group != (entry.key, group):
            present = [name for name in COLUMNS if name in file.schema_arrow.names]
            self._table = _read_group(file, group, present, f"{self.place.uri}/{entry.key}")
            self._group = (entry.key, group)
        try:
            values = self._table.slice(row - (ends[group] - groups[group]), 1).to_pylist()[0]
        except UnicodeDecodeError:
            raise InputError("the row holds text that is not UTF-8", field="captions") from None
        return ParquetRow(
            image=_bytes(values["image"], "image") or b"",
            mask=_bytes(values.get("mask"), "mask"),
            captions=_captions(values.get("captions")),
        )


def _bytes(value: Any, field: str) -> bytes | None:
    data = value.get("bytes") if isinstance(value, dict) else value
    if data is not None and not isinstance(data, bytes):
        raise InputError(
            f"column {field} holds {type(data).__name__}; expected the bytes of an image file", field=field
        )
    return data or None


def _captions(value: Any) -> tuple[str, ...]:
    """The captions of a row, whitespace collapsed. One string is one caption; nulls are dropped."""
    given = [item for item in (value if isinstance(value, list) else [value]) if item is not None]
    if not all(isinstance(item, str) for item in given):
        raise InputError("column captions must hold strings or lists of strings", field="captions")
    return tuple(" ".join(item.split()) for item in given)


def _read_group(file: pq.ParquetFile, group: int, columns: list[str], uri: str) -> pa.Table:
    try:
        return file.read_row_group(group, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"row group {group} of {uri} is damaged: {error}", field="images") from None


def _open(place: Store, entry: Entry) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(place.open(entry.key))
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{shown(entry.key)} in {place.uri} is not a Parquet file: {error}", field="images") from None
    if "image" not in file.schema_arrow.names:
        raise InputError(f"{shown(entry.key)} in {place.uri} has no column image", field="images")
    return file
