"""Which process a lease or a file belongs to, and whether that process is gone for sure.

A process id means something only on one machine, between two boots, within one process namespace (a container has one
of its own); host names say none of that.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process named for good.

    Attributes:
        machine: see :func:`this_machine`; empty where unknown.
        pid: its id there.
        started: when it began, in clock ticks since the boot; an id is given again, but not with the same time.
    """

    machine: str
    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Process:
        """The process of this machine that has the id now."""
        return cls(this_machine(), pid, _stat(pid)[1])

    def is_gone(self) -> bool:
        """Whether it has ended for sure; False for a process of another machine or container."""
        if not (self.machine and self.started) or self.machine != this_machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # another user's, and its entry in /proc may be hidden
        state, started = _stat(self.pid)
        return state == "Z" or started not in ("", self.started)


def this_machine() -> str:
    """16 hex digits over the boot and the process namespace of this process; empty where they cannot be known."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return ""  # /proc shows another namespace than ours
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return hashlib.sha256(f"{boot} {os.readlink('/proc/self/ns/pid')}".encode()).hexdigest()[:16]
    except OSError:
        return ""


def _stat(pid: int) -> tuple[str, str]:
    """State and start of a process; empty where it is gone or hidden."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", ""
    return state, fields[18]
