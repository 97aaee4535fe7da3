"""Processes of this machine: identity, descendants, and how to end them (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
PAUSE_SECONDS = 0.1
KILLED_SECONDS = 5.0


@dataclass(frozen=True, order=True)
class Process:
    """A process by pid and start time: a pid can be reused, but not with the same start time."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Process:
        """The process that has this pid now."""
        return cls(pid, _stat(pid).started)

    @property
    def alive(self) -> bool:
        """Whether it still runs; False for a zombie."""
        now = _stat(self.pid)
        return bool(self.started) and now.started == self.started and now.state != "Z"

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, unless the process has ended."""
        if self.alive:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


@dataclass(frozen=True)
class _Stat:
    state: str = ""
    parent: int = 0
    started: str = ""


class Family:
    """A snapshot of all processes of the machine."""

    def __init__(self) -> None:
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        self._stats = {pid: _stat(pid) for pid in pids}
        self._children: dict[int, list[int]] = {}
        for pid, stat in self._stats.items():
            self._children.setdefault(stat.parent, []).append(pid)

    def under(self, roots: Iterable[int]) -> set[Process]:
        """The living descendants of ``roots``."""
        found: set[int] = set()
        level = list(roots)
        while level:
            level = [child for parent in level for child in self._children.get(parent, ()) if child not in found]
            found.update(level)
        alive = {pid: self._stats[pid] for pid in found if self._stats[pid].state not in ("Z", "")}
        return {Process(pid, stat.started) for pid, stat in alive.items()}

    def reap(self, but: Collection[int]) -> None:
        """Reaps zombie children of this process, except those in ``but``, which other code waits for."""
        for pid in self._children.get(os.getpid(), ()):
            if self._stats[pid].state == "Z" and pid not in but:
                os.waitpid(pid, os.WNOHANG)


def end(targets: Iterable[Process], patience: float) -> None:
    """Sends SIGTERM, then SIGKILL to the processes that still run after ``patience`` seconds."""
    left = list(targets)
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, KILLED_SECONDS)):
        for one in left:
            one.send(number)
        until = time.monotonic() + seconds
        while (left := [one for one in left if one.alive]) and time.monotonic() < until:
            time.sleep(PAUSE_SECONDS)


def adopt_orphans() -> None:
    """Makes this process the parent of every descendant whose parent dies, so that it stays a descendant."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Lets the kernel send SIGTERM to this process when its parent ends."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "prctl")


def _stat(pid: int) -> _Stat:
    try:
        state, parent, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return _Stat()
    return _Stat(state, int(parent), rest[17])
