"""The supervisor of a local stack: starts services in order, restarts those that die or hang, stops them in order.

A process can outlive its work: ``ray start --block`` stays after its raylet has ended with code 0, as it does when one
of its agents dies, and no job runs any more. So health is checked as long as a service runs.

When a service dies its descendants are killed too, as in a container or a systemd unit: orphans become children of this
process (:func:`flows.stack.processes.adopt_orphans`), which kills them. When this process is killed, the kernel sends
SIGTERM to the services.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException

from flows.stack import processes
from flows.stack.place import Place, Running, State
from flows.stack.processes import Process
from mmface.errors import ServiceError

TICK_SECONDS = 0.4
START_SECONDS = 300.0  # a cold machine with two cores
START_ATTEMPTS = 3
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
STEADY_SECONDS = 60.0  # a service that ran longer restarts with the shortest pause
CHECK_SECONDS = 5.0  # between two checks of a healthy service
SILENT_SECONDS = 60.0  # a service that does not answer for as long is restarted


@dataclass(frozen=True)
class Service:
    """A service: one process with its command and dependencies.

    Attributes:
        about: its purpose in a few words.
        url: the address for users.
        health: URLs that all answer 200 when the service is healthy; empty when there is nothing to check.
        after: services that must be healthy before it starts.
        tied_to: a service with which it is restarted.
        grace: seconds that it may take to stop.
    """

    name: str
    about: str
    url: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    health: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    tied_to: str = ""
    grace: float = 20.0


class Supervisor:
    """Keeps ``services`` running until SIGINT or SIGTERM.

    Args:
        place: the folder for logs and state.
        scratch: a folder to remove when the services have stopped.
        say: called with a line for each event.
    """

    def __init__(self, services: Sequence[Service], place: Place, scratch: str, say: Callable[[str], None]) -> None:
        self.services, self.place, self.say = services, place, say
        self.state = State(Process.of(os.getpid()), scratch)
        self._lives: dict[str, _Life] = {}
        self._deaths: dict[str, _Deaths] = {one.name: _Deaths() for one in services}
        self._orphans: set[Process] = set()
        self._stopping = False

    def run(self, on_ready: Callable[[], None]) -> None:
        """Runs until SIGINT or SIGTERM; leaves no process behind.

        Raises:
            ServiceError: a service did not start.
        """
        processes.adopt_orphans()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        deadline = time.monotonic() + START_SECONDS
        try:
            while not self._stopping:
                self._tick()
                if not self.state.ready:
                    self._check_start(deadline)
                    if all(self._well(one.name) for one in self.services):
                        self.state.ready = True
                        on_ready()
                self.place.keep(self.state)
                time.sleep(TICK_SECONDS)
        finally:
            self._stopping = True
            self._stop()

    def _on_signal(self, number: int, frame: object) -> None:
        self._stopping = True

    def _stop(self) -> None:
        """Stops the services, the last one first, each with its descendants."""
        for service in reversed(self.services):
            if service.name in self._lives:
                self.say(f"stopping {service.name}")
                _end(self._lives[service.name].child, service.grace)
                del self._lives[service.name]
                while orphans := self._find_orphans():
                    processes.end(orphans, 1.0)
        shutil.rmtree(self.state.scratch, ignore_errors=True)
        self.place.forget()

    def _tick(self) -> None:
        for service in self.services:
            life = self._lives.get(service.name)
            if life is not None and life.child.poll() is not None:
                self._lost(service, f"exited with {life.child.returncode}")
        # Only orphans seen twice in a row: the snapshot is not atomic and can miss a new process's parent.
        orphans = self._find_orphans()
        for one in orphans & self._orphans:
            one.send(signal.SIGKILL)
        self._orphans = orphans
        for service in self.services:
            life = self._lives.get(service.name)
            if life is None:
                due = time.monotonic() >= self._deaths[service.name].not_before
                if due and all(self._well(name) for name in service.after):
                    self._start(service)
            elif life.well:
                self._check(service, life)
            elif all(_answers(url) for url in service.health):
                life.well, life.answered = True, time.monotonic()

    def _check(self, service: Service, life: _Life) -> None:
        """Kills a service that was healthy and has not answered for ``SILENT_SECONDS``."""
        if time.monotonic() < life.checked + CHECK_SECONDS:
            return
        silent = [url for url in service.health if not _answers(url)]
        life.checked = time.monotonic()
        if not silent:
            life.answered = life.checked
        elif life.checked - life.answered > SILENT_SECONDS:
            _end(life.child, 0.0)
            self._lost(service, f"did not answer at {silent[0]} for {SILENT_SECONDS:.0f} s")

    def _start(self, service: Service) -> None:
        with self.place.log(service.name).open("ab") as sink:
            child = subprocess.Popen(
                service.command,
                env={**os.environ, **service.environment},
                cwd=self.place.folder,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches only this process, which stops the services in order
                preexec_fn=processes.die_with_parent,
            )
        self._lives[service.name] = _Life(child)
        total = self._deaths[service.name].total
        self.state.services[service.name] = Running(Process.of(child.pid), total)
        if total:
            self.say(f"{service.name} is restarted")

    def _lost(self, service: Service, how: str) -> None:
        """Records the death of a service, kills the services tied to it, and sets when it restarts."""
        life = self._lives.pop(service.name)
        self._deaths[service.name].note(life)
        self.say(f"{service.name} {how}; see {self.place.log(service.name)}")
        for other in self.services:
            if other.tied_to == service.name and other.name in self._lives:
                _end(self._lives[other.name].child, 0.0)
                self._lost(other, f"stopped with {service.name}")

    def _find_orphans(self) -> set[Process]:
        """Descendants of this process that no service is an ancestor of; records all running processes in the state."""
        family, mains = processes.Family(), {life.child.pid for life in self._lives.values()}
        family.reap(but=mains)
        everything = family.under([os.getpid()])
        self.state.seen = sorted(everything)
        owned = family.under(mains)
        return {one for one in everything - owned if one.pid not in mains}

    def _well(self, name: str) -> bool:
        return name in self._lives and self._lives[name].well

    def _check_start(self, deadline: float) -> None:
        """Raises ServiceError when a service does not start."""
        for service in self.services:
            if self._deaths[service.name].total == START_ATTEMPTS:
                raise ServiceError(f"exited {START_ATTEMPTS} times; {self._tail(service)}", field=service.name)
            if time.monotonic() > deadline and not self._well(service.name):
                message = f"no answer at {service.url} within {START_SECONDS:.0f} s; {self._tail(service)}"
                raise ServiceError(message, field=service.name)

    def _tail(self, service: Service) -> str:
        path = self.place.log(service.name)
        lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
        return f"the log {path} ends with: {lines[-1] if lines else 'nothing'}"


@dataclass
class _Life:
    """A service between one start and its end.

    Attributes:
        checked, answered: when its health was checked, and when it was found healthy.
    """

    child: subprocess.Popen[bytes]
    began: float = field(default_factory=time.monotonic)
    well: bool = False
    checked: float = 0.0
    answered: float = 0.0


@dataclass
class _Deaths:
    """How often a service has died, and when it may restart."""

    total: int = 0
    in_a_row: int = 0
    not_before: float = 0.0

    def note(self, life: _Life) -> None:
        """Counts a death; the pause before the restart doubles while the service does not stay up."""
        now = time.monotonic()
        self.total += 1
        self.in_a_row = 1 if now - life.began > STEADY_SECONDS else self.in_a_row + 1
        self.not_before = now + min(FIRST_PAUSE * 2 ** (self.in_a_row - 1), LONGEST_PAUSE)


def _end(child: subprocess.Popen[bytes], patience: float) -> None:
    """Sends SIGTERM to a child, SIGKILL if it still runs after ``patience`` seconds, and waits for its end."""
    child.send_signal(signal.SIGTERM if patience else signal.SIGKILL)
    try:
        child.wait(patience or None)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2.0) as response:  # noqa: S310
            return bool(response.status == 200)
    except (OSError, HTTPException):
        return False
