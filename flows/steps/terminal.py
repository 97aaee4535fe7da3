"""Shows the live view of a run on the terminal of stdout; everything else that is printed goes to a log file."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console, ConsoleDimensions
from rich.live import Live
from rich.text import Text

from flows.steps.live import REFRESHES, STYLES_OF_LEVELS, Lines, View
from flows.steps.progress import Board, Status, listening, stage_names
from mmface.config import Recipe
from mmface.store import home

LOGS = "logs"
MOST_BYTES, MOST_FILES = 16 * 2**20, 20  # of one log file, and how many files are kept
STDOUT, STDERR = 1, 2


@contextmanager
def live_run(recipe: Recipe) -> Iterator[None]:
    """Shows the stages of a retraining while the context lasts; changes nothing where stdout is not a terminal.

    When it ends, the terminal has what it had before and below it the stages, warnings and errors, and after a failure
    the last lines of the log and its path.
    """
    if not _draws():
        yield
        return
    board, lines = Board(stage_names(recipe)), Lines()
    error: BaseException | None = None
    with Output() as output:
        console = Terminal(file=output.screen, highlight=False)
        view = View(f"mmface retrain {recipe.name}", board, lines, output.name)

        def draw() -> View:
            output.bound()
            return view

        untouched = {"redirect_stdout": False, "redirect_stderr": False}  # they are the log file
        live = Live(console=console, screen=True, refresh_per_second=REFRESHES, get_renderable=draw, **untouched)
        try:
            with listening(board), lines.attached(), live, _restoring(live, output):
                yield
        except BaseException as caught:
            error = caught
            raise
        finally:
            board.end(error)
            if any(entry.status is not Status.WAITING for entry in board.entries.values()):
                console.print(view.stages(console.width, console.options.ascii_only))
            for level, line in lines.worth_keeping(failed=error is not None):
                console.print(Text(line, STYLES_OF_LEVELS.get(level, "")), soft_wrap=True)
            if error is not None:
                console.print(Text(f"log: {output.name}", "dim"), soft_wrap=True)


def _draws() -> bool:
    """Whether stdout is a terminal that can be drawn on."""
    return sys.stdout.isatty() and os.environ.get("TERM", "").lower() not in ("", "dumb", "unknown")


class Terminal(Console):
    """A console with the size of the terminal that it writes to: rich looks at stdin, stdout and stderr alone."""

    @property
    def size(self) -> ConsoleDimensions:
        """Columns and rows; 80 and 24 where the terminal does not know them."""
        columns, rows = os.get_terminal_size(self.file.fileno())
        return ConsoleDimensions(columns or 80, rows or 24)


class Output:
    """Takes the terminal away from this process and its children, and gives them a log file in its place.

    Where stderr is a file or a pipe already, what is printed goes there.

    Attributes:
        screen: the terminal.
        name: of the place where everything that is printed goes.
    """

    def __enter__(self) -> Output:
        _flush()
        self.screen = os.fdopen(os.dup(STDOUT), "w", encoding=sys.stdout.encoding, errors="replace")
        self._terminals = {fd: os.dup(fd) for fd in (STDOUT, STDERR) if os.isatty(fd)}
        self._path: Path | None = None
        if STDERR in self._terminals:
            self._path = _new_log()
            self._open()
        else:
            os.dup2(STDERR, STDOUT)
        return self

    @property
    def name(self) -> str:
        """Path of the log file."""
        return str(self._path or "stderr")

    def bound(self) -> None:
        """Starts the log file anew when it has become too large, and keeps the one before it."""
        if self._path is not None and os.fstat(STDERR).st_size > MOST_BYTES:
            self._path.replace(self._path.with_suffix(".1.log"))
            self._open()

    def restore(self) -> None:
        """Gives the terminal back."""
        _flush()
        for fd, terminal in self._terminals.items():
            os.dup2(terminal, fd)

    def __exit__(self, *_: object) -> None:
        self.restore()
        self.screen.close()
        for terminal in self._terminals.values():
            os.close(terminal)

    def _open(self) -> None:
        assert self._path is not None
        log = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for fd in (STDOUT, STDERR):
            os.dup2(log, fd)
        os.close(log)


def _new_log() -> Path:
    """A path below the home, or below ``TMPDIR`` where the home is not a folder; the oldest logs are removed."""
    local = home().local_path
    folder = local / LOGS if local else Path(tempfile.gettempdir()) / f"mmface-{LOGS}-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    for old in sorted(folder.glob("*.log"))[: 1 - MOST_FILES]:
        old.unlink(missing_ok=True)
    return folder / time.strftime("%Y-%m-%d-%H%M%S.log")


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


@contextmanager
def _restoring(live: Live, output: Output) -> Iterator[None]:
    """Clears the view before SIGTERM ends the process."""

    def restore(number: int, frame: FrameType | None) -> None:
        live.stop()
        output.restore()
        signal.signal(number, before)
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, restore)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
