"""Prefect's server: one that does not answer, and a temporary one, which outlives nobody.

Without ``PREFECT_API_URL`` Prefect starts a server for the time of a process and stops it at exit. A process that is
killed has no exit: a shell beside it waits for that and ends the server then.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from mmface.errors import ServiceError, UnreachableError

# Ends with either process; by then the server's id can be nobody else's, because its parent has not yet waited for it.
GUARD = "while kill -0 {parent} && kill -0 {server}; do sleep 1; done; kill {server}"


@contextmanager
def answering() -> Iterator[None]:
    """Makes a Prefect server that is away for the moment an UnreachableError: worth another attempt."""
    import httpx

    try:
        yield
    except httpx.TransportError as error:
        raise UnreachableError(f"Prefect does not answer ({error})", field="PREFECT_API_URL") from error


def start_temporary_server() -> None:
    """Starts the server that Prefect would start on first use, unless an address is set.

    Raises:
        ServiceError: it does not start.
    """
    import httpx
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import get_current_settings

    if get_current_settings().api.url:
        return
    server = SubprocessASGIServer()
    try:
        server.start()
    except (RuntimeError, httpx.HTTPError) as error:
        message = f"Prefect's temporary server did not start ({str(error).splitlines()[0]}); try again"
        raise ServiceError(message, field="PREFECT_API_URL") from error
    if server.server_process is not None:
        guard = GUARD.format(parent=os.getpid(), server=server.server_process.pid)
        silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.Popen(["/bin/sh", "-c", guard], start_new_session=True, **silent)
