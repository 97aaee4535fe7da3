"""Whether something answers at an address, asked in seconds instead of a client's minutes of retries."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

from mmface.errors import ServiceError, UnreachableError

SECONDS = 3.0
AUTO, LOCAL = "auto", "local"  # of RAY_ADDRESS: the Ray that was started on this machine, or one of our own
PROCESSES = Path("/proc")
SOCKET_BYTES = 103 if sys.platform == "darwin" else 107  # the longest path of a Unix socket
# Ray's longest socket below its temporary folder: the time in microseconds, and a process id of at most 7 digits.
RAY_SOCKET = "session_2026-01-31_23-59-59_123456_1234567/sockets/plasma_store"


def ray_address() -> str | None:
    """``RAY_ADDRESS``, None where Ray is to be started on this machine.

    Raises:
        UnreachableError: nothing answers there.
        ServiceError: Ray cannot start here, since its sockets' paths would be too long.
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
    """Raises ServiceError when a Ray that starts here could not make its sockets.

    Args:
        folder: Ray's temporary folder; by default ``ray`` in ``RAY_TMPDIR``, ``TMPDIR`` or ``/tmp``, as Ray has it.
    """
    variable = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    place = folder or ray_folder()
    excess = len(os.fsencode(place / RAY_SOCKET)) - SOCKET_BYTES
    if excess > 0:
        remedy = "set RAY_TMPDIR or TMPDIR to a shorter one, such as /tmp"
        message = f"{place} is {excess} bytes too long for the sockets of Ray; {remedy}"
        raise ServiceError(message, field=variable)


def ray_folder() -> Path:
    """Where Ray keeps its sessions by default."""
    return Path(os.environ.get("RAY_TMPDIR", os.environ.get("TMPDIR", "/tmp")), "ray")


def dashboard_address() -> str | None:
    """``RAY_ADDRESS`` if it is a dashboard's URL, which takes jobs; None where stages run in this process."""
    address = os.environ.get("RAY_ADDRESS", "")
    return address if urlsplit(address).scheme in ("http", "https") else None


def unreachable(address: str) -> str | None:
    """Why nothing can be reached at an address, None if something answers or there is no host to ask.

    Args:
        address: ``host:port``, a URL, or ``auto`` for the Ray that was started on this machine.
    """
    if address == AUTO:
        return _no_ray_here()
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return f"{address} has no port from 0 to 65535"
    if not parts.hostname or not port:
        return None  # "local", a database file: not for us to judge
    try:
        socket.create_connection((parts.hostname, port), timeout=SECONDS).close()
    except OSError as error:
        return f"nothing answers at {address} ({error.strerror or error})"
    return None


def _no_ray_here() -> str | None:
    """Why Ray's ``auto`` would find nothing: it looks for raylets, then for the address that ``ray start`` noted."""
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
        return False  # it has just ended, or is another user's
