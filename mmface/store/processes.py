"""Identifies the process that owns a lease or a file, and tells whether that process has certainly ended.

A process id is valid only on one machine, until its next boot, and within one process namespace (each container has its
own). A host name identifies none of these.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process, identified uniquely over time.

    Attributes:
        machine: see :func:`this_machine`; empty if unknown.
        pid: its process id there.
        started: start time in clock ticks since the boot; tells processes with the same, reused id apart.
    """

    machine: str
    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Process:
        """The process of this machine that has the id ``pid`` now."""
        return cls(this_machine(), pid, _stat(pid)[1])

    def is_gone(self) -> bool:
        """Whether the process has certainly ended; False for a process of another machine or container."""
        if not (self.machine and self.started) or self.machine != this_machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # the process exists but belongs to another user; its entry in /proc may be hidden
        state, started = _stat(self.pid)
        return state == "Z" or started not in ("", self.started)


def this_machine() -> str:
    """Hash, 16 hex digits, of this machine's boot and this process's namespace; empty if they cannot be read."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return ""  # /proc belongs to another process namespace
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return hashlib.sha256(f"{boot} {os.readlink('/proc/self/ns/pid')}".encode()).hexdigest()[:16]
    except OSError:
        return ""


def _stat(pid: int) -> tuple[str, str]:
    """State and start time of a process; both empty if it has ended or is hidden."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", ""
    return state, fields[18]
