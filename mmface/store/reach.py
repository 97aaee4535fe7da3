"""Checks whether a service is reachable at an address: within seconds, before a client retries for minutes."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

from mmface.errors import ServiceError, UnreachableError

SECONDS = 3.0
AUTO, LOCAL = "auto", "local"  # values of RAY_ADDRESS: a Ray that already runs on this machine; start a new one
PROCESSES = Path("/proc")
SOCKET_BYTES = 103 if sys.platform == "darwin" else 107  # the longest path of a Unix socket
# Ray's longest socket below its temporary folder: the time in microseconds, and a process id of at most 7 digits.
RAY_SOCKET = "session_2026-01-31_23-59-59_123456_1234567/sockets/plasma_store"


def ray_address() -> str | None:
    """``RAY_ADDRESS``; None if this process must start Ray on this machine.

    Raises:
        UnreachableError: nothing answers at the address.
        ServiceError: Ray cannot start here because the paths of its sockets would be too long.
    """
    address = os.environ.get("RAY_ADDRESS") or LOCAL
    problem = unreachable(address)
    if problem:
        remedy = "start the cluster or unset RAY_ADDRESS to run on this machine"
        raise UnreachableError(f"{problem}; {remedy}", field="RAY_ADDRESS")
    if address == LOCAL:
        check_sockets()
    return None if address == LOCAL else address


def check_sockets(folder: Path | None = None) -> None:
    """Raises ServiceError if the paths of Ray's sockets would be too long.

    Args:
        folder: Ray's temporary folder; by default ``ray`` in ``RAY_TMPDIR``, ``TMPDIR`` or ``/tmp``, Ray's own default.
    """
    variable = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    place = folder or ray_folder()
    excess = len(os.fsencode(place / RAY_SOCKET)) - SOCKET_BYTES
    if excess > 0:
        remedy = "set RAY_TMPDIR or TMPDIR to a shorter path, such as /tmp"
        message = f"{place} is {excess} bytes too long for the sockets of Ray; {remedy}"
        raise ServiceError(message, field=variable)


def ray_folder() -> Path:
    """Where Ray keeps its sessions by default."""
    return Path(os.environ.get("RAY_TMPDIR", os.environ.get("TMPDIR", "/tmp")), "ray")


def dashboard_address() -> str | None:
    """``RAY_ADDRESS`` if it is the URL of a Ray dashboard, to which jobs are submitted; None if stages run in this
    process."""
    address = os.environ.get("RAY_ADDRESS", "")
    return address if urlsplit(address).scheme in ("http", "https") else None


def unreachable(address: str) -> str | None:
    """Why an address is unreachable; None if something answers or the address has no host and port to check.

    Args:
        address: ``host:port``, a URL, or ``auto`` for a Ray that already runs on this machine.
    """
    if address == AUTO:
        return _no_ray_here()
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return f"{address} has no port from 0 to 65535"
    if not parts.hostname or not port:
        return None  # "local" or a database file: nothing to connect to
    try:
        socket.create_connection((parts.hostname, port), timeout=SECONDS).close()
    except OSError as error:
        return f"nothing answers at {address} ({error.strerror or error})"
    return None


def _no_ray_here() -> str | None:
    """Why Ray's ``auto`` would find nothing. Ray looks for raylet processes, then for the address that ``ray start``
    wrote down."""
    if any(_is_raylet(process) for process in PROCESSES.glob("[0-9]*/cmdline")):
        return None
    try:
        noted = (ray_folder() / "ray_current_cluster").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        noted = ""
    if noted and not unreachable(noted):
        return None
    return "no Ray was started on this machine for RAY_ADDRESS=auto to find"


def _is_raylet(cmdline: Path) -> bool:
    try:
        return os.path.basename(cmdline.read_bytes().partition(b"\0")[0]) == b"raylet"
    except OSError:
        return False  # the process has just ended, or belongs to another user
