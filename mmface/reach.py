"""Whether something answers at an address, asked in seconds instead of a client's minutes of retries."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

from mmface.errors import UnreachableError

SECONDS = 3.0


def ray_address() -> str | None:
    """``RAY_ADDRESS``, None where Ray is to be started on this machine.

    Raises:
        UnreachableError: nothing answers there.
    """
    address = os.environ.get("RAY_ADDRESS") or None
    problem = unreachable(address) if address else None
    if problem:
        remedy = "start the cluster or unset RAY_ADDRESS to run on this machine"
        raise UnreachableError(f"{problem}; {remedy}", field="RAY_ADDRESS")
    return address


def dashboard_address() -> str | None:
    """``RAY_ADDRESS`` if it is a dashboard's URL, which takes jobs; None where stages run in this process."""
    address = os.environ.get("RAY_ADDRESS", "")
    return address if urlsplit(address).scheme in ("http", "https") else None


def unreachable(address: str) -> str | None:
    """Why nothing can be reached at ``host:port`` or a URL, None if something answers or there is no host to ask."""
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return f"{address} has no port from 0 to 65535"
    if not parts.hostname or not port:
        return None  # "auto", "local", a database file: not for us to judge
    try:
        socket.create_connection((parts.hostname, port), timeout=SECONDS).close()
    except OSError as error:
        return f"nothing answers at {address} ({error.strerror or error})"
    return None
