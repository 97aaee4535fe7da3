"""Prefect's server: errors when it does not answer, and a temporary server that ends with its process.

Without ``PREFECT_API_URL`` Prefect starts a server for a process and stops it when the process exits. A process that is
killed cannot stop it; a shell that watches both processes does.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from mmface.errors import ServiceError, UnreachableError

# Ends when either process ends. The server's pid cannot be reused before that: its parent has not waited for it yet.
GUARD = "while kill -0 {parent} && kill -0 {server}; do sleep 1; done; kill {server}"


@contextmanager
def answering() -> Iterator[None]:
    """Raises UnreachableError, which is worth a retry, when Prefect's server does not answer."""
    import httpx

    try:
        yield
    except httpx.TransportError as error:
        raise UnreachableError(f"Prefect does not answer ({error})", field="PREFECT_API_URL") from error


def start_temporary_server() -> None:
    """Starts the server that Prefect would start on first use, unless ``PREFECT_API_URL`` is set.

    Raises:
        ServiceError: the server does not start.
    """
    import httpx
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import get_current_settings

    if get_current_settings().api.url:
        return
    server = SubprocessASGIServer()
    try:
        with _interrupts_blocked():
            server.start()
    except (RuntimeError, httpx.HTTPError) as error:
        message = f"Prefect's temporary server did not start ({str(error).splitlines()[0]}); try again"
        raise ServiceError(message, field="PREFECT_API_URL") from error
    if server.server_process is not None:
        guard = GUARD.format(parent=os.getpid(), server=server.server_process.pid)
        silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.Popen(["/bin/sh", "-c", guard], start_new_session=True, **silent)


def server_address() -> str:
    """Address of the API of the server that this process uses, for processes that it starts."""
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import get_current_settings

    return str(get_current_settings().api.url or SubprocessASGIServer().api_url)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Blocks SIGINT, also in processes started meanwhile, so that Ctrl-C ends this process and not its server."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
