"""Hooks at the end of a flow run: stop its jobs and send a notification."""

from __future__ import annotations

import inspect
import logging
import os
from typing import Any

from prefect import Flow
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.blocks.webhook import Webhook
from prefect.client.schemas.objects import FlowRun
from prefect.states import State
from prefect.utilities.asyncutils import run_coro_as_sync
from prefect.utilities.urls import url_for

from flows.cluster.reap import reap_jobs
from mmface.errors import MMFaceError
from mmface.store import home

log = logging.getLogger(__name__)

NOTIFY = "MMFACE_NOTIFY"  # slug of a saved block: slack-webhook/team, webhook/pager, custom-webhook/x, email/…


def stop_jobs(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Stops the jobs that a crashed or cancelled flow run left running."""
    try:
        reap_jobs(home(), flow_run=str(flow_run.id))
    except MMFaceError as error:
        log.warning("jobs of flow run %s may still run: %s; mmface reap stops them", flow_run.name, error)


def notify(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Sends the final state of the run through the block that ``MMFACE_NOTIFY`` names; does nothing when it is not set.

    Prefect logs errors of this hook; they do not change the state of the run.
    """
    slug = os.environ.get(NOTIFY)
    if not slug:
        return
    block: Any = _answer(Block.load(slug))
    subject = f"{flow.name} {flow_run.name}: {state.name}"
    body = "\n".join(filter(None, [state.message, url_for(flow_run)]))
    if isinstance(block, Webhook):
        _answer(block.call({"subject": subject, "body": body, "flow_run": str(flow_run.id), "state": state.name}))
    elif isinstance(block, NotificationBlock):
        _answer(block.notify(body, subject))
    else:
        raise TypeError(
            f"{NOTIFY}={slug}: a {type(block).__name__} block cannot notify; name a webhook or notification"
        )


def _answer(value: Any) -> Any:
    return run_coro_as_sync(value) if inspect.isawaitable(value) else value


HOOKS: dict[str, Any] = {
    "on_completion": [notify],
    "on_failure": [notify],
    "on_crashed": [stop_jobs, notify],
    "on_cancellation": [stop_jobs, notify],
}
