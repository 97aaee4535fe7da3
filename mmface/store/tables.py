"""Rows as the bytes of Parquet files, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq


def to_parquet(rows: Iterable[Mapping[str, Any]], schema: pa.Schema, footer: Mapping[str, str] | None = None) -> bytes:
    """Rows, and what else the file is to carry in its footer, as the bytes of one parquet file; equal rows give equal
    bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema.with_metadata(footer)), sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def read_table(file: BinaryIO | pa.BufferReader, columns: list[str] | None = None) -> pa.Table:
    """The table of one parquet file, without its footer."""
    return pq.read_table(file, columns=columns).replace_schema_metadata(None)


def read_rows(data: bytes, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """Rows of one parquet file's bytes."""
    return read_table(pa.BufferReader(data), columns).to_pylist()  # type: ignore[no-any-return]


def count_rows(data: bytes) -> int:
    """Number of rows, from the footer alone."""
    return int(pq.ParquetFile(pa.BufferReader(data)).metadata.num_rows)
