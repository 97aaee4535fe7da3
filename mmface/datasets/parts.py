"""Parts: the files of a dataset, each written once and by one atomic write (§6).

A part is one Parquet file: its table holds the output rows, its footer the quarantined rows. A part is written only
where none exists, so it is either missing or complete, and a second, slower worker on the same part changes nothing.
Publishing reads the part's receipt in ``work/`` (rows, checksum) instead of the part itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from mmface.datasets.dataset import Dataset
from mmface.datasets.journal import Journal
from mmface.datasets.manifest import File
from mmface.datasets.stage import Row
from mmface.errors import DatasetError
from mmface.store import Store
from mmface.store.tables import to_parquet

DATA = "data"
READ = "work/read"  # parts that ``images`` has read, before it knows which rows are duplicates
SET_ASIDE = "set_aside"  # key of the quarantined rows in a part's footer


class Receipt(BaseModel):
    """What a finished part contains."""

    model_config = ConfigDict(frozen=True)

    file: File
    reused: int
    quarantined: list[Row]


def commit(
    store: Store, path: str, rows: Sequence[Row], schema: pa.Schema, quarantined: Sequence[Row] = (), reused: int = 0
) -> None:
    """Writes a part, then its receipt. If the part exists, writes neither: its writer also writes its receipt."""
    footer = {SET_ASIDE: json.dumps(list(quarantined))} if quarantined else None
    data = to_parquet(rows, schema, footer)
    if store.write(path, data, if_absent=True):
        _write_receipt(store, Receipt(file=File.of(path, data), reused=reused, quarantined=list(quarantined)))


def discard(store: Store, path: str) -> None:
    """Deletes a part so that it is computed again; its receipt goes first, since it must not outlive the part."""
    store.delete(_receipt_key(path))
    store.delete(path)


def receipt_of(store: Store, path: str) -> Receipt:
    """The receipt of a finished part; rebuilt from the part if its writer died before it wrote the receipt."""
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


def part_names(dataset: Dataset) -> list[str]:
    """Names of a dataset's parts, in order."""
    return [PurePosixPath(file.path).name for file in dataset.parts()]


def read_part(inputs: Sequence[Dataset], part: str, columns: Sequence[str] = ()) -> list[Row]:
    """Rows of the part ``part`` of every input, joined by id: all columns, or ``columns`` plus ``id`` and ``uri``."""
    if not columns:
        return join_parts(inputs, part)
    wanted = {"id", "uri", *columns}
    return join_parts(inputs, part, [[name for name in one.columns if name in wanted] for one in inputs])


def join_parts(inputs: Sequence[Dataset], part: str, columns: Sequence[list[str] | None] = ()) -> list[Row]:
    """Inner join by id of the part ``part`` of every input, in the row order of the first input.

    Args:
        columns: the columns to read of each input; all by default.
    """
    wanted = columns or [None] * len(inputs)
    base, *others = (
        dataset.part(f"{DATA}/{part}", some).to_pylist() for dataset, some in zip(inputs, wanted, strict=True)
    )
    joined = {row["id"]: row for row in base}
    for rows in others:
        found = {row["id"]: row for row in rows}
        # Later inputs win: the mask of ``conditions`` replaces the mask that came with the photograph.
        joined = {key: {**row, **found[key]} for key, row in joined.items() if key in found}
    return list(joined.values())
