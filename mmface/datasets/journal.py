"""The journal of a part: what a process is working on, so that after a crash the next process finds the cause (§6).

If a process dies while it works on a part, the whole part is retried. After :data:`WHOLE_TRIES` deaths its rows are
mapped one by one, and a row during which :data:`ROW_TRIES` processes died is quarantined as poison.

If the stage raises an exception outside the mmface tree, the rows are mapped one by one at once, and a row that fails
:data:`ROW_TRIES` times alone is poison too. If the first :data:`ALIKE` rows of a part all fail with the same exception
type, the cause is not in the rows: the stage fails, and no row of that part is quarantined.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from types import TracebackType
from typing import Self

from pydantic import BaseModel

from mmface.datasets.stage import Result, Row, Stage, quarantine_row
from mmface.errors import DatasetError, InputError, MMFaceError, StageError, describe
from mmface.store import Store

log = logging.getLogger(__name__)

WHOLE = "all rows together"
WHOLE_TRIES = 2
ROW_TRIES = 2
OTHER_TRIES = 4
ALIKE = 8
POISON = "poison"


class Record(BaseModel):
    """The stored content of a journal.

    Attributes:
        busy: what the process is working on; None between two tasks.
        deaths: how many processes died, by what they were working on.
        reused: rows of the part that were copied from an earlier dataset.
    """

    busy: str | None = None
    deaths: dict[str, int] = {}
    reused: int = 0


class Journal:
    """Context manager around the work on one part. Only a kill counts as a death, not an exception."""

    def __init__(self, store: Store, part: str) -> None:
        self.store = store
        self.part = part
        self.key = f"work/journal/{part}.json"
        self.record = Record()

    def __enter__(self) -> Self:
        with suppress(DatasetError):  # the first process on this part: there is no journal yet
            self.record = Record.model_validate_json(self.store.read(self.key))
        if self.record.busy is not None:
            self.record.deaths[self.record.busy] = self.deaths(self.record.busy) + 1
            self.record.busy = None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.store.delete(self.key)
        else:
            self._note(None)

    def deaths(self, doing: str) -> int:
        """How many processes died while they were working on ``doing``."""
        return self.record.deaths.get(doing, 0)

    def enter(self, doing: str) -> None:
        """Notes that ``doing`` begins. Raises StageError if too many processes have died during it."""
        deaths = self.deaths(doing)
        if deaths >= OTHER_TRIES:
            del self.record.deaths[doing]  # start counting again: the next run comes after a fix
            remedy = "give the job more memory or lower data.workers, and look for the cause in the Ray logs"
            raise StageError(f"{deaths} processes died in a row while {doing}; {remedy}", field=self.part)
        self._note(doing)

    def map(self, stage: Stage, rows: list[Row], key: str, *, reused: int = 0) -> Result:
        """Maps ``rows`` with ``stage``: all together or, if that kills processes or fails, one by one without poison.

        Args:
            key: the column that names a row.
            reused: rows of the part that need no mapping; kept so that a lost receipt can be rebuilt.

        Raises:
            StageError: the first rows all fail with the same exception type.
            MMFaceError: raised by the stage.
        """
        self.record.reused = reused
        if not rows:
            self._note(WHOLE)
            return Result()
        if self.deaths(WHOLE) < WHOLE_TRIES:
            self._note(WHOLE)
            try:
                return stage(rows)
            except MMFaceError:
                raise
            except Exception as error:  # any type: a bug in the stage or a library that one unusual row triggers
                message = "%s: %s failed: %s; mapping its %d rows one by one"
                log.warning(message, stage.name, self.part, describe(error), len(rows), exc_info=True)
        return self._one_by_one(stage, rows, key)

    def _one_by_one(self, stage: Stage, rows: list[Row], key: str) -> Result:
        result, failures = Result(), list[str]()
        for place, row in enumerate(rows, 1):
            deaths = self.deaths(row[key])
            if deaths >= ROW_TRIES:
                reason = f"{deaths} processes died while {stage.name} mapped this row alone"
                result.quarantined.append(_poison(stage, row, reason))
                continue
            self._note(row[key])
            one = _alone(stage, row)
            if isinstance(one, Result):
                result.rows += one.rows
                result.quarantined += one.quarantined
                continue
            failures.append(type(one).__name__)
            if len(failures) == place == ALIKE and len(set(failures)) == 1:
                message = f"the first {ALIKE} rows of {self.part} all fail; the last is {_named(row)}: {describe(one)}"
                raise StageError(message, field=stage.name) from one
            result.quarantined.append(_poison(stage, row, f"failed {ROW_TRIES} times: {describe(one)}"))
        self._note(WHOLE)
        return result

    def _note(self, doing: str | None) -> None:
        self.record.busy = doing
        self.store.write(self.key, self.record.model_dump_json().encode())


def _alone(stage: Stage, row: Row) -> Result | Exception:
    """The result of one row, or the exception of its last try. Raises errors of the mmface tree."""
    failure: Exception | None = None
    for _ in range(ROW_TRIES):
        try:
            return stage([row])
        except MMFaceError:
            raise
        except Exception as error:
            log.warning("%s: row %s failed: %s", stage.name, _named(row), describe(error), exc_info=True)
            failure = error
    assert failure is not None
    return failure


def _poison(stage: Stage, row: Row, reason: str) -> Row:
    return quarantine_row(stage.name, row, InputError(reason, field=POISON)) | {"error": POISON}


def _named(row: Row) -> str:
    return str(row.get("uri") or row.get("id"))
