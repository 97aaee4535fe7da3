"""Converts rows to the bytes of Parquet files and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq


def to_parquet(rows: Iterable[Mapping[str, Any]], schema: pa.Schema, footer: Mapping[str, str] | None = None) -> bytes:
    """Rows as the bytes of one Parquet file; equal rows give equal bytes.

    Args:
        footer: further text for the file's metadata.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema.with_metadata(footer)), sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def read_table(file: BinaryIO | pa.BufferReader, columns: list[str] | None = None) -> pa.Table:
    """The table of one Parquet file, without the file's metadata."""
    return pq.read_table(file, columns=columns).replace_schema_metadata(None)


def read_rows(data: bytes, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """The rows of a Parquet file, given as bytes."""
    return read_table(pa.BufferReader(data), columns).to_pylist()  # type: ignore[no-any-return]


def count_rows(data: bytes) -> int:
    """Number of rows of a Parquet file, given as bytes; reads only the footer."""
    return int(pq.ParquetFile(pa.BufferReader(data)).metadata.num_rows)
