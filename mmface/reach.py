"""Whether something answers at an address, asked in seconds instead of a client's minutes of retries."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

SECONDS = 3.0


def unreachable(address: str) -> str | None:
    """Why nothing can be reached at ``host:port`` or a URL, None if something answers or there is no host to ask."""
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    if not parts.hostname or not port:
        return None  # "auto", "local", a database file: not for us to judge
    try:
        socket.create_connection((parts.hostname, port), timeout=SECONDS).close()
    except OSError as error:
        return f"nothing answers at {address} ({error.strerror or error})"
    return None
