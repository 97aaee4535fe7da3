"""A note of what a process is busy with, so that whoever comes after its death knows what it died of (§6).

A part that was being worked on when a process died is tried again as a whole; after :data:`WHOLE_TRIES` deaths it goes
row by row, and a row that was alone at work in :data:`ROW_TRIES` deaths is set aside as poison.

A part whose stage raises an exception that is not ours goes row by row at once, and a row that fails :data:`ROW_TRIES`
times alone is poison too. Where the first :data:`ALIKE` rows of a part all fail with one exception, the cause is not in
the rows: the stage fails, and no row of that part is set aside.
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
    """The journal of one part: what is being done now, and how often a process died of what."""

    busy: str | None = None
    deaths: dict[str, int] = {}
    reused: int = 0


class Journal:
    """Context of the work on one part. An error that the process survives is no death; a kill is."""

    def __init__(self, store: Store, part: str) -> None:
        self.store = store
        self.part = part
        self.key = f"work/journal/{part}.json"
        self.record = Record()

    def __enter__(self) -> Self:
        with suppress(DatasetError):  # nobody was here before
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
        """How many processes died while they were busy with ``doing``."""
        return self.record.deaths.get(doing, 0)

    def enter(self, doing: str) -> None:
        """Notes that ``doing`` begins. Raises StageError when too many processes have died of it."""
        deaths = self.deaths(doing)
        if deaths >= OTHER_TRIES:
            del self.record.deaths[doing]  # whoever runs it again has mended something
            remedy = "give it more memory or fewer data.workers, and look for its end in the log of Ray"
            raise StageError(f"{deaths} processes died one after the other while {doing}; {remedy}", field=self.part)
        self._note(doing)

    def map(self, stage: Stage, rows: list[Row], key: str, *, reused: int = 0) -> Result:
        """Maps ``rows`` with ``stage``, at once or, where that kills processes or fails, one by one without the poison.

        Args:
            key: the column that names a row.
            reused: how many rows of the part need no mapping; kept for whoever finds the part finished.

        Raises:
            StageError: the first rows all fail alike.
            MMFaceError: what the stage raised.
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
            except Exception as error:  # any: a defect shows at a row that nobody thought of
                log.warning("%s: %s: %s; going row by row", stage.name, self.part, describe(error), exc_info=True)
        return self._one_by_one(stage, rows, key)

    def _one_by_one(self, stage: Stage, rows: list[Row], key: str) -> Result:
        result, failures = Result(), list[str]()
        for place, row in enumerate(rows, 1):
            deaths = self.deaths(row[key])
            if deaths >= ROW_TRIES:
                reason = f"{deaths} processes died while this row alone was in {stage.name}"
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
                message = f"the first {ALIKE} rows of {self.part} all fail, the last is {_named(row)}: {describe(one)}"
                raise StageError(message, field=stage.name) from one
            result.quarantined.append(_poison(stage, row, f"{ROW_TRIES} times {describe(one)}"))
        self._note(WHOLE)
        return result

    def _note(self, doing: str | None) -> None:
        self.record.busy = doing
        self.store.write(self.key, self.record.model_dump_json().encode())


def _alone(stage: Stage, row: Row) -> Result | Exception:
    """One row through the stage, or what it raises each time; raises what is of our own tree."""
    failure: Exception | None = None
    for _ in range(ROW_TRIES):
        try:
            return stage([row])
        except MMFaceError:
            raise
        except Exception as error:
            log.warning("%s: %s: %s", stage.name, _named(row), describe(error), exc_info=True)
            failure = error
    assert failure is not None
    return failure


def _poison(stage: Stage, row: Row, reason: str) -> Row:
    return quarantine_row(stage.name, row, InputError(reason, field=POISON)) | {"error": POISON}


def _named(row: Row) -> str:
    return str(row.get("uri") or row.get("id"))
