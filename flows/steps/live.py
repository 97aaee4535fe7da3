"""The live view of a run: stages with their progress, the loss of the running phase, and the last lines of the log."""

from __future__ import annotations

import logging
import re
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flows.steps.progress import Board, Entry, Status

LOGGERS = ("flows", "ray_jobs", "mmface", "serve")
MOST_LINES, LINES_OF_FAILURE = 500, 20  # in memory, and on the terminal after a failure
REFRESHES = 4.0  # per second
STYLES_OF_LEVELS = {logging.WARNING: "yellow", logging.ERROR: "bold red", logging.CRITICAL: "bold red"}

_STYLES = {
    Status.WAITING: "dim",
    Status.RUNNING: "bold cyan",
    Status.DONE: "green",
    Status.REUSED: "blue",
    Status.FAILED: "bold red",
    Status.STOPPED: "yellow",
}
# For terminals with Unicode and without.
_MARKS = {
    Status.WAITING: ("·", "."),
    Status.RUNNING: ("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\"),
    Status.DONE: ("✓", "+"),
    Status.REUSED: ("✓", "="),
    Status.FAILED: ("✗", "x"),
    Status.STOPPED: ("■", "#"),
}
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x1f\x7f-\x9f]")
_SPARKS = ("▁▂▃▄▅▆▇█", "_.-~=+*#")


class Lines(logging.Handler):
    """The last lines of the log with the level of each, oldest first."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        self.kept: deque[tuple[int, str]] = deque(maxlen=MOST_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the lines of a record, without escape sequences, which a job's log may have."""
        for line in self.format(record).splitlines():
            self.kept.append((record.levelno, _CONTROL.sub("", line.replace("\t", "    "))))

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Listens to our own loggers meanwhile."""
        loggers = [logging.getLogger(name) for name in LOGGERS]
        for logger in loggers:
            logger.addHandler(self)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeHandler(self)

    def worth_keeping(self, failed: bool) -> list[tuple[int, str]]:
        """What stays on the terminal after the run: warnings and errors, and the last lines of one that failed."""
        kept = list(self.kept)
        tail = len(kept) - LINES_OF_FAILURE if failed else len(kept)
        return [line for i, line in enumerate(kept) if i >= tail or line[0] >= logging.WARNING]


class View:
    """What the terminal shows of a run, drawn anew for whatever size it has.

    Args:
        log: path of the file that has everything that is printed.
    """

    def __init__(self, title: str, board: Board, lines: Lines, log: str) -> None:
        self.title, self.board, self.lines, self.log = title, board, lines, log

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, ascii_only = options.max_width, options.ascii_only
        room = (options.height or options.size.height) - 1  # lines below the heading
        yield self.heading(width)
        loss = self.loss(width, ascii_only)
        stages = self.stages(width, ascii_only, room - (loss is not None) - min(room // 3, 4))
        yield stages
        room -= stages.row_count
        if loss is not None:
            yield loss
            room -= 1
        if room > 1:
            yield _one_line(Text(f"log: {self.log} ".ljust(width, "-" if ascii_only else "─"), "dim"))
            yield from self.tail(console, width, room - 1)

    def heading(self, width: int) -> Text:
        """What runs, how much of it is finished, and for how long it has run."""
        with self.board.lock:
            entries = self.board.entries.values()
            ended = sum(entry.status in (Status.DONE, Status.REUSED) for entry in entries)
            elapsed = _clock(self.board.clock() - self.board.begun)
            heading = Text.assemble((self.title, "bold"), f"  {ended} of {len(entries)} stages  {elapsed}")
        return _one_line(heading)

    def stages(self, width: int, ascii_only: bool = False, room: int = sys.maxsize) -> Table:
        """A line for each stage, or for those around the running one where there is no room for all."""
        now = self.board.clock()
        table = Table.grid(padding=(0, 2, 0, 0))
        with self.board.lock:
            for entry in _around_running(list(self.board.entries.values()), room):
                cells: list[RenderableType] = [
                    Text(_mark(entry.status, now, ascii_only), _STYLES[entry.status]),
                    Text(entry.stage, "dim" if entry.status is Status.WAITING else ""),
                    Text(entry.status, _STYLES[entry.status]),
                ]
                if width >= 80:
                    cells.append(ProgressBar(entry.total, entry.done, width=min(width - 73, 20)) if entry.total else "")
                if width >= 60:
                    cells.append(Text(_count(entry)))
                if width >= 75:
                    cells.append(Text(_rate(entry)))
                if width >= 45:
                    cells.append(Text(_times(entry, now)))
                table.add_row(*cells)
        for column in table.columns:
            column.no_wrap, column.overflow = True, "ellipsis"
        return table

    def loss(self, width: int, ascii_only: bool = False) -> Text | None:
        """The losses of the running phase, one character each or for several; None where nothing is trained."""
        with self.board.lock:
            running = [entry for entry in self.board.entries.values() if entry.status is Status.RUNNING]
            phase = next((entry for entry in running if entry.losses), None)
            if phase is None or phase.latest is None:
                return None
            held_out = f"  held-out {phase.latest.held_out:.4f}" if phase.latest.held_out is not None else ""
            text = f"  loss {phase.losses[-1]:.4f}{held_out}  "
            return _one_line(Text(text).append(sparkline(phase.losses, min(width - len(text), 60), ascii_only), "cyan"))

    def tail(self, console: Console, width: int, room: int) -> Iterator[Text]:
        """The last lines of the log, as many as there is room for, and always the last warning or error."""
        kept = list(self.lines.kept)
        urgent = next((i for i in reversed(range(len(kept))) if kept[i][0] >= logging.WARNING), None)
        rows: list[Text] = []
        for i in reversed(range(len(kept))):
            found = _rows(kept[i], console, width)
            reserved = len(_rows(kept[urgent], console, width)) if urgent is not None and urgent < i else 0
            if len(rows) + len(found) + reserved > room:
                if urgent is not None and urgent <= i:
                    rows = [*_rows(kept[urgent], console, width)[:room], *rows][:room]
                break
            rows = [*found, *rows]
        yield from rows


def sparkline(values: Sequence[float], width: int, ascii_only: bool = False) -> str:
    """The values as columns of one line; each stands for the mean of its share where there are more than ``width``."""
    width = max(min(width, len(values)), 1)
    edges = [len(values) * i // width for i in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    sparks = _SPARKS[ascii_only]
    return "".join(sparks[round((mean - low) / ((high - low) or 1.0) * (len(sparks) - 1))] for mean in means)


def _around_running(entries: list[Entry], room: int) -> list[Entry]:
    room = max(room, 1)
    running = [i for i, entry in enumerate(entries) if entry.status not in (Status.DONE, Status.REUSED)]
    first = (running[0] if running else len(entries) - 1) - (room > 2)
    first = max(min(first, len(entries) - room), 0)
    return entries[first : first + room]


def _rows(line: tuple[int, str], console: Console, width: int) -> list[Text]:
    """A line on as many rows as it needs if it is urgent, else on one."""
    level, text = line
    if level < logging.WARNING:
        return [_one_line(Text(text))]
    return list(Text(text, STYLES_OF_LEVELS.get(level, "")).wrap(console, width))


def _one_line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _mark(status: Status, now: float, ascii_only: bool) -> str:
    marks = _MARKS[status][ascii_only]
    return marks[int(now * 2 * REFRESHES) % len(marks)]


def _count(entry: Entry) -> str:
    return f"{entry.done}/{entry.total} {'steps' if entry.trains else 'parts'}" if entry.total else ""


def _rate(entry: Entry) -> str:
    rate = entry.rate()
    return "" if rate is None else f"{rate:.1f} {'images' if entry.trains else 'rows'}/s"


def _times(entry: Entry, now: float) -> str:
    eta = entry.eta(now)
    elapsed = _clock(entry.elapsed(now)) if entry.started else ""
    return elapsed if eta is None else f"{elapsed}  ETA {_clock(eta)}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
