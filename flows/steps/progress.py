"""How far a run is: what its stages report, and the state of all of them, for a live view and for Prefect's artifacts.

A stage in this process reports by the records of its log, which carry its figures; the log of a job on a cluster
arrives as text, and the figures are read from its lines.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from mmface.config import Recipe

RELEASE = "release"  # what follows the last stage: register, gate, promote, try the service

_PARTS = re.compile(r"(?:^|\s)(?P<name>\w[\w-]*): (?P<done>\d+) of (?P<total>\d+) parts(?:, (?P<rows>\d+) rows)?")
_STEPS = re.compile(
    r"(?:^|\s)(?P<name>train \d+)(?: \(\d+ px\))?: step (?P<done>\d+)/(?P<total>\d+)"
    r"(?:  loss (?P<loss>\S+))?(?:  held-out (?P<held_out>\S+))?(?:  lr \S+)?"
    r"(?:  (?P<rate>[\d.]+) images/s)?(?:  ETA (?P<minutes>\d+):(?P<seconds>\d\d))?"
)


class Status(StrEnum):
    """What a stage is doing."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    REUSED = "reused"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Figures:
    """How far one stage is.

    Attributes:
        name: of the stage as its log names it: ``latents-64``, but ``train 0`` for a phase.
        done: parts or training steps that are finished.
        total: parts or training steps.
        rows: rows of the finished parts; None in training.
        loss: of the training rows.
        held_out: loss of the held-out rows.
        rate: images per second in training.
        eta_s: seconds to the end of the phase.
    """

    name: str
    done: int
    total: int
    rows: int | None = None
    loss: float | None = None
    held_out: float | None = None
    rate: float | None = None
    eta_s: float | None = None


def read_figures(text: str) -> Figures | None:
    """Reads the figures of a line of a job's log; None if it has none."""
    if parts := _PARTS.search(text):
        rows = int(parts["rows"]) if parts["rows"] else None
        return Figures(parts["name"], int(parts["done"]), int(parts["total"]), rows)
    if steps := _STEPS.search(text):
        loss, held_out, rate = (float(steps[name]) if steps[name] else None for name in ("loss", "held_out", "rate"))
        eta_s = 60.0 * int(steps["minutes"]) + int(steps["seconds"]) if steps["minutes"] else None
        name, done, total = steps["name"], int(steps["done"]), int(steps["total"])
        return Figures(name, done, total, None, loss, held_out, rate, eta_s)
    return None


def figures_of(record: logging.LogRecord) -> Figures | None:
    """The figures that a log record carries as ``progress``, or that its text names; None if it has none."""
    carried = getattr(record, "progress", None)
    return Figures(**carried) if carried else read_figures(record.getMessage())


Listener = Callable[[str, Status | Figures], None]
_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Calls ``listener`` with the stage and the news for everything that stages of this process report meanwhile."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def report(stage: str, news: Status | Figures) -> None:
    """Reports news of a stage to all listeners."""
    for listener in _listeners:
        listener(stage, news)


def stage_names(recipe: Recipe) -> list[str]:
    """The stages of a retraining in their order, and the release."""
    return [
        *([] if recipe.sources else ["portraits"]),
        *("images", "conditions", "captions", "text"),
        *(f"latents-{size}" for size in recipe.resolutions),
        *(f"train-{i}-{phase.resolution}" for i, phase in enumerate(recipe.phases)),
        *("evalset", "samples", "scores", "bundle", RELEASE),
    ]


@dataclass
class Entry:
    """The state of one stage.

    Attributes:
        done: finished parts or steps, those of earlier runs included.
        total: parts or steps.
        rows: that this run finished; 0 in training.
        started, ended, reported: seconds of the board's clock; 0 before.
        losses: of all reports so far.
    """

    stage: str
    status: Status = Status.WAITING
    done: int = 0
    total: int = 0
    rows: int = 0
    started: float = 0.0
    ended: float = 0.0
    reported: float = 0.0
    latest: Figures | None = None
    losses: list[float] = field(default_factory=list)
    _found: int = 0  # parts or steps that earlier runs finished

    @property
    def trains(self) -> bool:
        """Whether it is a phase of training."""
        return self.stage.startswith("train-")

    def elapsed(self, now: float) -> float:
        """Seconds that it has run."""
        return (self.ended or now) - self.started if self.started else 0.0

    def rate(self) -> float | None:
        """Images of training or rows per second; None while it is unknown."""
        if self.latest and self.latest.rate is not None:
            return self.latest.rate
        return self.rows / (self.reported - self.started) if self.rows and self.reported > self.started else None

    def eta(self, now: float) -> float | None:
        """Seconds to the end; None while it is unknown."""
        if self.status is not Status.RUNNING or self.latest is None:
            return None
        left = self.latest.eta_s
        if left is None:
            made, seconds = self.done - self._found, self.reported - self.started
            if made <= 0 or seconds <= 0:
                return None
            left = (self.total - self.done) * seconds / made
        return max(left - (now - self.reported), 0.0)

    def advance(self, figures: Figures, now: float) -> None:
        """Takes a report. A stage that resumes, or that lost workers, counts the parts that are left from 1 again."""
        self.total = max(self.total, figures.total)
        self.done = self.total - figures.total + figures.done
        if self.latest is None:
            self._found = 0 if figures.rows is not None else figures.done
        before = (self.latest.rows if self.latest else None) or 0
        rows = figures.rows or 0
        self.rows += rows - before if rows >= before else rows
        self.latest, self.reported = figures, now
        if figures.loss is not None and math.isfinite(figures.loss):
            self.losses.append(figures.loss)


class Board:
    """The state of every stage of a run; a listener. Its lock is held by all who read it while the run goes on.

    Args:
        stages: names in their order; the last one begins when all others have ended.
        clock: seconds.
    """

    def __init__(self, stages: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.entries = {stage: Entry(stage) for stage in stages}
        self.clock, self.lock = clock, threading.RLock()
        self.begun = clock()

    def __call__(self, stage: str, news: Status | Figures) -> None:
        """Takes news of a stage."""
        with self.lock:
            if isinstance(news, Status):
                self._change(self.entries[stage], news)
                *stages, last = self.entries.values()
                if all(entry.status in (Status.DONE, Status.REUSED) for entry in stages):
                    self._change(last, Status.RUNNING)
                return
            entry = self.entries.get(news.name) or self.entries.get(stage)  # one job makes the latents of all sizes
            if entry is not None:
                if entry.status is Status.WAITING:
                    self._change(entry, Status.RUNNING)
                entry.advance(news, self.clock())

    def end(self, error: BaseException | None) -> None:
        """The run has ended, by ``error`` if there is one."""
        with self.lock:
            status = Status.DONE if error is None else Status.FAILED if isinstance(error, Exception) else Status.STOPPED
            for entry in self.entries.values():
                if entry.status is Status.RUNNING:
                    self._change(entry, status)

    def _change(self, entry: Entry, status: Status) -> None:
        if status is Status.REUSED and entry.status is not Status.WAITING:
            status = Status.DONE  # it was made by this run, in the job of another stage
        entry.status = status
        if status is Status.RUNNING:
            entry.started = entry.started or self.clock()
        elif entry.started and not entry.ended:
            entry.ended = self.clock()
