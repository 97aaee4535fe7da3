"""Leases: files in the store that say which process works on what, without a server.

An owner writes ``leases/<name>/<generation>.json`` and rewrites it every few seconds (the heartbeat). A generation is
created by a conditional write, so that only one of several processes gets it; an owner loses its lease when a later
generation exists. An owner is dead when its process has ended on this machine and container, or when its heartbeat is
too old by the store's clock: the clocks of two machines are never compared.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from mmface.errors import DatasetError, ServiceError, StageError
from mmface.store import Entry, Store
from mmface.store.processes import Process

log = logging.getLogger(__name__)

BEAT_SECONDS = 10.0
DEAD_AFTER_SECONDS = 60.0
WAIT_SECONDS = 2.0
FOLDER, CLOCK = "leases", "clock"
FREE = b"{}"  # the content of a released lease


@dataclass(frozen=True)
class Owner:
    """A process that holds a lease.

    Attributes:
        machine: boot and process namespace (:func:`mmface.store.processes.this_machine`); empty where unknown, and in
            leases of versions that did not write it: then only a missing heartbeat shows that the owner is dead.
        token: random, so that no two owners write the same bytes.
        reads: URIs of the datasets that its work reads, which must not be removed while it holds the lease.
    """

    host: str
    pid: int
    started: str
    flow_run: str
    machine: str = ""
    token: str = ""
    reads: tuple[str, ...] = ()

    @classmethod
    def this(cls, flow_run: str, reads: Iterable[str] = ()) -> Owner:
        """The present process as an owner."""
        process = Process.of(os.getpid())
        host, token = socket.gethostname(), secrets.token_hex(8)
        return cls(host, process.pid, process.started, flow_run, process.machine, token, tuple(reads))

    def is_gone(self) -> bool:
        """Whether the process has certainly ended; False for a process of another machine or container."""
        return self.host == socket.gethostname() and Process(self.machine, self.pid, self.started).is_gone()

    def __str__(self) -> str:
        run = f"flow run {self.flow_run}, " if self.flow_run else ""
        return f"{run}process {self.pid} on {self.host}"


class Lease:
    """A lease that this process holds, created by :func:`take`. A thread writes its heartbeat."""

    def __init__(self, store: Store, key: str, owner: Owner) -> None:
        self.store, self.key, self.owner = store, key, owner
        self.lost = self.abandoned = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises StageError when another process has taken the lease, as far as the heartbeat has seen."""
        if self.lost:
            raise StageError("another process took over this work and continues it", field=self.key)

    def confirm(self) -> None:
        """Like :meth:`check`, but reads the store now: for a step that must not happen twice."""
        self.lost = self.lost or self._overtaken()
        self.check()

    def abandon(self) -> None:
        """Stops the heartbeat without releasing the lease, so that the reaper stops the job."""
        self._over.set()
        self.abandoned = True

    def release(self) -> None:
        """Releases the lease, unless it was abandoned or another process has taken it."""
        self._over.set()
        self._thread.join()
        if not (self.lost or self.abandoned):
            try:
                self.store.write(self.key, FREE)
            except ServiceError as error:
                log.warning("lease %s was not released: %s; it expires in a minute", self.key, error)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            try:
                if self._overtaken():
                    self.lost = True
                    return
                self.store.write(self.key, _written(self.owner))
            except ServiceError as error:
                log.warning("the heartbeat of lease %s was not written: %s", self.key, error)

    def _overtaken(self) -> bool:
        newest = _newest(self.store, self.key.rpartition("/")[0])
        return newest is None or newest.key != self.key


def take(store: Store, name: str, owner: Owner) -> Lease | Owner:
    """Takes the lease of ``name``; returns the lease, or the owner that holds it."""
    folder = f"{FOLDER}/{name}"
    newest = _newest(store, folder)
    if newest is not None:
        holder = _holder(store, newest)
        if holder is not None:
            return holder
    generation = int(Path(newest.key).stem) + 1 if newest else 0
    key = f"{folder}/{generation:08d}.json"
    if not store.write(key, _written(owner), if_absent=True):
        return take(store, name, owner)
    # A listing made while another process replaces a lease can show neither the old nor the new one.
    latest = _newest(store, folder)
    if latest is None or latest.key != key:
        store.delete(key)
        return take(store, name, owner)
    for entry in store.list(folder):
        if entry.key < key:
            store.delete(entry.key)
    return Lease(store, key, owner)


@contextmanager
def held(
    store: Store, name: str, owner: Owner, *, finished: Callable[[], bool] = lambda: False
) -> Iterator[Lease | None]:
    """Waits for the lease of ``name`` and holds it in the context; None when ``finished()`` before it was free."""
    seen = None
    while isinstance(lease := take(store, name, owner), Owner):
        if lease != seen:
            log.info("%s: waiting for %s, which works on it", name, lease)
            seen = lease
        time.sleep(WAIT_SECONDS)
        if finished():
            yield None
            return
    try:
        yield lease
    finally:
        lease.release()


def holder(store: Store, name: str) -> Owner | None:
    """The living owner of the lease of ``name``, if there is one."""
    newest = _newest(store, f"{FOLDER}/{name}")
    return _holder(store, newest) if newest else None


def dead(store: Store) -> Iterator[tuple[str, Owner]]:
    """Leases that were not released and whose owner is dead, as name and owner."""
    for name, owner, entry in _taken(store):
        if not _is_alive(store, entry, owner):
            yield name, owner


def taken(store: Store) -> Iterator[tuple[str, Owner]]:
    """Leases that were not released, as name and owner, living or dead: a job can outlive the owner of its lease."""
    for name, owner, _ in _taken(store):
        yield name, owner


def _taken(store: Store) -> Iterator[tuple[str, Owner, Entry]]:
    for entry in store.list(FOLDER):
        owner = _owner(store, entry) if entry.size > len(FREE) else None
        if owner:
            yield entry.key.split("/")[1], owner, entry


def _newest(store: Store, folder: str) -> Entry | None:
    return max(store.list(folder), key=lambda entry: entry.key, default=None)


def _holder(store: Store, entry: Entry) -> Owner | None:
    owner = _owner(store, entry)
    return owner if owner and _is_alive(store, entry, owner) else None


def _owner(store: Store, entry: Entry) -> Owner | None:
    """The owner in a lease; None when it was released, or a later generation has just replaced it."""
    try:
        content = json.loads(store.read(entry.key))
    except DatasetError:
        return None
    if not content:
        return None
    known = {field.name for field in fields(Owner)}  # a later version may write more
    written = {name: value for name, value in content.items() if name in known}
    return Owner(**written | {"reads": tuple(written.get("reads", ()))})


def _is_alive(store: Store, entry: Entry, owner: Owner) -> bool:
    if owner.is_gone():
        return False
    store.write(f"{CLOCK}/now", b"")
    now = max(one.modified for one in store.list(CLOCK))
    return now - entry.modified <= DEAD_AFTER_SECONDS


def _written(owner: Owner) -> bytes:
    return json.dumps(asdict(owner)).encode()
