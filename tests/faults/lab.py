"""Runs the entrypoint of a stage in its own process, and kills parts of it: a worker, an actor, the driver, Ray."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

KINDS = ("actor", "driver", "worker", "ray")
PROCESSES = {
    "actor": "ray::MapWorker",
    "trainer": "ray::RayTrainWorker",
    "worker": "ray::",
}  # starts of command lines
GONE_AFTER_S = 90.0  # the longest time in which a driver may notice that Ray is gone
ROOT = Path(__file__).parents[2]

# Runs the entrypoint with its log on stderr.
DRIVER = """
import json, logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s")
from importlib import import_module
made = import_module(f"ray_jobs.{sys.argv[1]}").main(sys.argv[2:])
print("DATASETS", json.dumps([made] if isinstance(made, str) else made), flush=True)
"""


@dataclass
class Run:
    """The result of one run of an entrypoint.

    Attributes:
        code: exit code, negative for a signal.
        uris: the datasets that it returned.
        rows: number of rows that its workers computed, by its log.
        log: its log.
    """

    code: int
    uris: list[str]
    rows: int
    log: str


@dataclass
class Driver:
    """A running entrypoint."""

    process: subprocess.Popen[str]
    log: Path
    seen: set[tuple[int, str]] = field(default_factory=set)

    @classmethod
    def start(cls, stage: str, arguments: Sequence[str], folder: Path, code: str = DRIVER) -> Driver:
        """Starts ``python -m ray_jobs.<stage>``, or other ``code``, with its own Ray."""
        log = Path(tempfile.mkstemp(suffix=".log", dir=folder)[1])
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
        }
        environment.pop("RAY_ADDRESS", None)
        with log.open("w") as sink:
            process = subprocess.Popen(
                [sys.executable, "-c", code, stage, *arguments],
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
                env=environment,
                cwd=folder,
            )
        return cls(process, log)

    def finish(self, timeout: float = 1800.0) -> Run:
        """Waits for its end, kills its remaining processes, and returns its result."""
        try:
            out, _ = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, _ = self.process.communicate()
        self.clean()
        log = self.log.read_text()
        datasets = re.search(r"^DATASETS (.+)$", out, re.MULTILINE)  # Ray also writes to stdout
        return Run(self.process.returncode, json.loads(datasets[1]) if datasets else [], rows_made(log), log)

    def descendants(self) -> dict[int, str]:
        """The processes that this driver started, with their command lines; remembers them for :meth:`clean`."""
        parents: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    stat = (entry / "stat").read_text()
                except (FileNotFoundError, ProcessLookupError):
                    continue
                parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
        found, level = {}, [self.process.pid]
        while level:
            level = [pid for pid, parent in parents.items() if parent in level]
            found.update({pid: _command(pid) for pid in level})
        self.seen |= {(pid, _started(pid)) for pid in found}
        return found

    def kill(self, kind: str, choose: Callable[[list[int]], int]) -> bool:
        """Kills a process of the kind; False when there is none (yet)."""
        found = self.descendants()
        if kind == "driver":
            victims = [self.process.pid]
        elif kind == "ray":
            victims = list(found)
        else:
            start = PROCESSES[kind]
            # Agents of the node have similar names; killing one kills the whole node, which is the kind ``ray``.
            names = {pid: command.split()[0] for pid, command in found.items() if command.startswith(start)}
            fitting = sorted(pid for pid, name in names.items() if not name.endswith("Agent"))
            victims = [choose(fitting)] if fitting else []
        for pid in victims:
            _kill(pid)
        return bool(victims)

    def clean(self) -> None:
        """Kills the processes that outlived the driver, but not processes that reuse their ids."""
        for pid, started in self.seen:
            if started and _started(pid) == started:
                _kill(pid)
        time.sleep(0.2)


def uris_of(answer: str | list[str]) -> list[str]:
    """The datasets that an entrypoint returned; most return one."""
    return [answer] if isinstance(answer, str) else answer


def rows_made(log: str) -> int:
    """The number of rows that the workers of a run computed, by its log."""
    return max((int(rows) for rows in re.findall(r"parts, (\d+) rows", log)), default=0)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _started(pid: int) -> str:
    """Start time of a process, which identifies it together with its pid; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
