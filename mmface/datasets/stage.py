"""What a stage is: a class that loads its networks once and maps a batch of rows.

A row that cannot be used is an :class:`~mmface.errors.InputError` inside the stage and a quarantine row outside;
any other exception is a defect and fails the stage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from mmface.errors import FilteredError, InputError, shown

Row = dict[str, Any]

# Raised when a stage's code changes what it writes.
VERSIONS = {
    "portraits": 1,
    "images": 2,
    "conditions": 2,
    "captions": 2,
    "latents": 3,
    "text": 3,
    "train": 1,
    "samples": 1,
    "bundle": 2,
}


@dataclass
class Result:
    """Rows that came out and rows that were set aside."""

    rows: list[Row] = field(default_factory=list)
    quarantined: list[Row] = field(default_factory=list)


class Stage(Protocol):
    """One step of the data engine. An output row depends on its input row alone, whatever rows are mapped with it.

    Attributes:
        reads: the columns of an input row that the stage reads; empty for all that it is given.
    """

    name: str
    schema: pa.Schema
    reads: tuple[str, ...]

    def __call__(self, rows: Sequence[Row]) -> Result:
        """Maps rows to rows; every input row is in the result once."""
        ...


def quarantine_row(stage: str, row: Row, error: InputError) -> Row:
    """The row that says what was wrong with ``row``."""
    return {
        "id": row.get("id", ""),
        "uri": row.get("uri", ""),
        "stage": stage,
        "error": error.code if error.field is None else f"{error.code}:{error.field}",
        "message": shown(error.message),
    }


def is_filtered(error: str) -> bool:
    """Whether a row of the quarantine is sound and was only not wanted: it does not count against the error budget."""
    return error.partition(":")[0] == FilteredError.code


def map_rows(stage: str, rows: Sequence[Row], function: Callable[[Row], Row]) -> Result:
    """Applies ``function`` to each row; an InputError sets the row aside."""
    result = Result()
    for row in rows:
        try:
            result.rows.append(function(row))
        except InputError as error:
            result.quarantined.append(quarantine_row(stage, row, error))
    return result
