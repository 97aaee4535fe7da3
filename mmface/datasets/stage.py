"""The interface of a stage: a class that loads its networks once and maps batches of rows.

For a row that it cannot use, a stage raises :class:`~mmface.errors.InputError`, which becomes a row of the quarantine.
Any other exception is a bug; :mod:`mmface.datasets.journal` says what happens then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from mmface.errors import FilteredError, InputError, shown

Row = dict[str, Any]

# Increase a stage's version when its code changes what it writes.
VERSIONS = {
    "portraits": 1,
    "images": 2,
    "conditions": 2,
    "captions": 2,
    "latents": 3,
    "text": 3,
    "features": 1,
    "drift": 1,
    "train": 1,
    "evalset": 1,
    "samples": 2,
    "scores": 2,
    "bundle": 3,
}


@dataclass
class Result:
    """Output rows and quarantined rows of a batch."""

    rows: list[Row] = field(default_factory=list)
    quarantined: list[Row] = field(default_factory=list)


class Stage(Protocol):
    """One step of the data engine. An output row depends only on its input row, not on the other rows of the batch.

    Attributes:
        reads: the columns of an input row that the stage reads; empty for all columns.
    """

    name: str
    schema: pa.Schema
    reads: tuple[str, ...]

    def __call__(self, rows: Sequence[Row]) -> Result:
        """Maps a batch; every input row is in the result once, as output or as quarantined."""
        ...


def quarantine_row(stage: str, row: Row, error: InputError) -> Row:
    """The quarantine's row for ``row``, with the reason."""
    return {
        "id": row.get("id", ""),
        "uri": row.get("uri", ""),
        "stage": stage,
        "error": error.code if error.field is None else f"{error.code}:{error.field}",
        "message": shown(error.message),
    }


def is_filtered(error: str) -> bool:
    """Whether a quarantined row is valid but unwanted; such rows do not count against the error budget."""
    return error.partition(":")[0] == FilteredError.code


def map_rows(stage: str, rows: Sequence[Row], function: Callable[[Row], Row]) -> Result:
    """Applies ``function`` to each row; a row that raises InputError is quarantined."""
    result = Result()
    for row in rows:
        try:
            result.rows.append(function(row))
        except InputError as error:
            result.quarantined.append(quarantine_row(stage, row, error))
    return result
