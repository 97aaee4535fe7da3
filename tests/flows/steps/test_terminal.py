"""The live view on a pseudo-terminal: what it draws, where everything else goes, and what it leaves behind."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import IO

import pytest

from tests.flows.conftest import ROOT

PROGRAM = """
import logging, os, subprocess, sys, time, warnings
from flows.cli.command_line import _set_up_logging
from flows.steps import terminal
from flows.steps.terminal import live_run
from flows.steps.progress import Figures, Status, report
from mmface.config.load import load_recipe

_set_up_logging()
log = logging.getLogger("flows.test")
with live_run(load_recipe("demo")):
    report("portraits", Status.RUNNING)
    log.info("portraits: started")
    os.write(2, b"native noise\\n")
    subprocess.run(["sh", "-c", "echo noise of a child"], check=True)
    print("noise of a library", file=sys.stderr)
    report("portraits", Figures("portraits", 1, 2, 8))
    log.warning("a warning of ours")
    time.sleep(0.6)
    end = sys.argv[1]
    if end == "error":
        raise ValueError("broken")
    if end == "wait":
        while not os.path.exists(sys.argv[2]):
            time.sleep(0.1)
    if end == "flood":
        terminal.MOST_BYTES = 1000
        for i in range(20):
            os.write(2, b"x" * 100 + b"\\n")
            time.sleep(0.1)
    if end == "hang":
        time.sleep(600)
    report("portraits", Status.DONE)
print("the summary")
"""
NOISE = ("native noise", "noise of a child", "noise of a library")
ENTER, LEAVE, SHOW_CURSOR = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h"


class Session:
    """A process on a pseudo-terminal of its own."""

    def __init__(self, home: Path, *arguments: str, stderr: IO[str] | None = None, **variables: str) -> None:
        self.controller, terminal = pty.openpty()
        self.resize(30, 100)
        environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
        environment |= {"PYTHONPATH": str(ROOT), "MMFACE_HOME": str(home), "TERM": "xterm-256color"} | variables
        command = [sys.executable, "-c", PROGRAM, *arguments]
        descriptors = {"stdin": subprocess.DEVNULL, "stdout": terminal, "stderr": stderr or terminal}
        self.process = subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True, **descriptors)
        os.close(terminal)
        self.text = ""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.controller, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read_until(self, pattern: str) -> str:
        """What came up to the pattern, or up to the end."""
        begun = len(self.text)
        while not re.search(pattern, self.text[begun:]):
            try:
                data = os.read(self.controller, 65536)
            except OSError:  # the terminal has no other end any more
                break
            self.text += data.decode(errors="replace")
        return self.text[begun:]

    def end(self) -> int:
        """Reads to the end; returns the exit code."""
        self.read_until("(?!)")
        return self.process.wait(60)


def after(text: str) -> str:
    """What stays on the terminal, without its colours."""
    assert text.count(ENTER) == text.count(LEAVE) == 1
    assert text.rindex(SHOW_CURSOR) > text.rindex("\x1b[?25l")
    return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", text.split(LEAVE)[1]).replace("\r", "")


def log_of(home: Path) -> str:
    (path,) = home.glob("logs/*.log")
    return path.read_text()


def test_a_run_on_a_terminal_is_drawn_and_leaves_its_stages_warnings_and_summary(tmp_path: Path) -> None:
    session = Session(tmp_path, "success")
    assert session.end() == 0
    drawn = session.text.split(LEAVE)[0]
    assert "mmface retrain demo" in drawn
    assert "1/2 parts" in drawn
    assert f"log: {tmp_path}/logs/" in drawn
    assert "portraits: started" in drawn
    left = after(session.text)
    assert re.search(r"portraits +done", left)
    assert left.splitlines()[-1] == "the summary"
    assert "a warning of ours" in left
    assert not any(noise in session.text for noise in NOISE)
    log = log_of(tmp_path)
    assert all(noise in log for noise in NOISE)
    assert re.search(r"^\d\d:\d\d:\d\d portraits: started$", log, re.MULTILINE)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_leaves_the_terminal_clean(number: signal.Signals, code: int, tmp_path: Path) -> None:
    session = Session(tmp_path, "hang")
    session.read_until("a warning of ours")
    session.process.send_signal(number)
    assert session.end() == code
    left = after(session.text)
    if number == signal.SIGINT:
        assert re.search(r"portraits +stopped", left)
        assert "KeyboardInterrupt" in left  # which ``main`` would catch


def test_an_error_leaves_its_traceback_the_last_lines_and_the_path_of_the_log(tmp_path: Path) -> None:
    session = Session(tmp_path, "error")
    assert session.end() == 1
    left = after(session.text)
    assert re.search(r"portraits +failed", left)
    assert "portraits: started" in left
    assert f"log: {tmp_path}/logs/" in left
    assert "ValueError: broken" in left


def test_a_resized_terminal_is_filled_anew(tmp_path: Path) -> None:
    session = Session(tmp_path, "wait", str(tmp_path / "go"))
    session.read_until("a warning of ours")
    session.resize(10, 40)
    frames = session.read_until(r"(?s)(\x1b\[H.*){4}").split("\x1b[H")
    rows = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", frames[-2]).replace("\r", "").split("\n")
    assert len(rows) == 10
    assert {len(row) for row in rows} == {40}
    (tmp_path / "go").touch()
    assert session.end() == 0


def test_the_log_file_is_bounded_and_old_ones_are_removed(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    for day in range(1, 30):
        (tmp_path / f"logs/2020-01-{day:02d}-120000.log").touch()
    session = Session(tmp_path, "flood")
    assert session.end() == 0
    *old, before, newest = sorted((tmp_path / "logs").iterdir())
    assert [path.name for path in old] == [f"2020-01-{day:02d}-120000.log" for day in range(11, 30)]
    assert before.name == newest.name.removesuffix(".log") + ".1.log"
    assert max(path.stat().st_size for path in (before, newest)) < 2500


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_terminal_that_cannot_be_drawn_on_gets_plain_lines(term: str, tmp_path: Path) -> None:
    session = Session(tmp_path, "success", TERM=term)
    assert session.end() == 0
    assert "\x1b" not in session.text
    assert "native noise" in session.text
    assert not (tmp_path / "logs").exists()


def test_without_a_terminal_the_lines_are_plain(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MMFACE_HOME": str(tmp_path), "FORCE_COLOR": "1"}
    command = [sys.executable, "-c", PROGRAM, "success"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "noise of a child\nthe summary\n"
    lines = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in done.stderr.splitlines()]
    assert lines == ["portraits: started", "native noise", "noise of a library", "a warning of ours"]
    assert not (tmp_path / "logs").exists()


def test_a_redirected_stderr_gets_what_it_gets_without_the_view(tmp_path: Path) -> None:
    path = tmp_path / "stderr"
    with path.open("w") as sink:
        session = Session(tmp_path, "success", stderr=sink)
        assert session.end() == 0
    assert "mmface retrain demo" in session.text
    assert all(line in path.read_text() for line in (*NOISE, "portraits: started", "a warning of ours"))
    assert not (tmp_path / "logs").exists()
