"""Sends OpenLineage events of stages to the server that the ``OPENLINEAGE_…`` variables name (§8).

Without these variables nothing is sent. A server that fails never fails a run: the first failure of a flow run is
logged, and the flow run sends no more.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prefect.runtime import flow_run

from mmface.datasets.inventory import held_at
from mmface.datasets.manifest import Identity
from mmface.store import Store

if TYPE_CHECKING:
    from openlineage.client.event_v2 import RunEvent

    from flows.lineage.run_events import Parent

log = logging.getLogger(__name__)

# https://openlineage.io/docs/client/python/configuration
DISABLED, URL, FILE = "OPENLINEAGE_DISABLED", "OPENLINEAGE_URL", "OPENLINEAGE_CONFIG"
TRANSPORT = "OPENLINEAGE__TRANSPORT"  # and variables that begin with it
CLOSE_SECONDS = 10.0  # for transports that send in the background
_gave_up: set[str] = set()  # flow runs whose events could not be sent


def configured() -> bool:
    """Whether events are sent."""
    if os.environ.get(DISABLED, "").strip().lower() == "true":
        return False
    return any(value for name, value in os.environ.items() if name in (URL, FILE) or name.startswith(TRANSPORT))


@contextmanager
def reported(home: Store, identity: Identity) -> Iterator[None]:
    """Reports the run of a stage when the context ends: its published dataset, or the error that ended it."""
    began = time.time()
    try:
        yield
    except BaseException as error:
        _send(partial(_failed, identity, began, error))
        raise
    _send(lambda: _published(home, identity, _parent()))


def report_found(home: Store, identity: Identity) -> None:
    """Reports again the run that made a dataset which was found published; its parent is not known."""
    _send(lambda: _published(home, identity, None))


def _published(home: Store, identity: Identity, parent: Parent | None) -> list[RunEvent]:
    from flows.lineage.run_events import published_events

    return published_events(home, held_at(home, identity.key), parent)


def _failed(identity: Identity, began: float, error: BaseException) -> list[RunEvent]:
    from flows.lineage.run_events import failed_events

    return failed_events(identity, began, time.time(), error, _parent())


def _parent() -> Parent | None:
    from flows.lineage.run_events import Parent

    return Parent(str(flow_run.flow_name), str(flow_run.id)) if flow_run.id else None


def _send(make: Callable[[], list[RunEvent]]) -> None:
    if not configured():
        return
    run = str(flow_run.id or "")
    if run in _gave_up:
        return
    try:
        from openlineage.client import OpenLineageClient

        file = os.environ.get(FILE)
        if file and not Path(file).is_file():  # the client would print the events instead
            raise FileNotFoundError(f"{FILE} names {file}, which is no file")
        client = OpenLineageClient()
        for event in make():
            client.emit(event)
        client.close(CLOSE_SECONDS)
    except ImportError:
        _gave_up.add(run)
        log.warning("OpenLineage is configured, but its client is not installed: pip install 'mmface[lineage]'")
    except Exception as error:  # any type: transports are plug-ins, and none may fail a run
        log.debug("OpenLineage events were not sent", exc_info=True)
        _gave_up.add(run)
        message = "OpenLineage events of this run are not sent (%s: %s); check %s, or set %s=true"
        log.warning(message, type(error).__name__, error, " and ".join((URL, FILE)), DISABLED)
