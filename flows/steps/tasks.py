"""The Prefect task that runs the job of a stage: its retries, its concurrency limit and its progress."""

from __future__ import annotations

import logging
import math
import re
import time
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import httpx
from prefect import task
from prefect.artifacts import create_link_artifact, create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.states import State
from prefect.tasks import exponential_backoff

from flows.cluster.jobs import Job
from flows.cluster.runner import run_job
from flows.cluster.server import answering
from flows.steps.progress import Figures, figures_of, read_figures, report
from mmface.config import Entrypoint
from mmface.errors import UnreachableError

log = logging.getLogger(__name__)

# The global concurrency limits of Prefect that `mmface deploy` creates.
LIMITS: dict[Entrypoint, str] = {
    "images": "mmface-prepare",
    "conditions": "mmface-prepare",
    "captions": "mmface-prepare",
    "text": "mmface-prepare",
    "latents": "mmface-prepare",
    "features": "mmface-prepare",
    "drift": "mmface-prepare",
    "train": "mmface-train",
}
SLOT_LEASE_SECONDS = 60.0  # after which the slot of a killed process is free again
SHOW_SECONDS = 5.0


def worth_retrying(task: object, run: object, state: State[Any]) -> bool:
    """Whether the task failed because a service did not answer; user errors are not retried."""
    return isinstance(state.result(raise_on_failure=False), UnreachableError)


# No cache policy: published datasets are the cache, looked up by fingerprint before this task is made.
@task(
    cache_policy=NO_CACHE,
    retries=3,
    retry_delay_seconds=exponential_backoff(backoff_factor=10),
    retry_jitter_factor=0.3,
    retry_condition_fn=worth_retrying,
)
def work(job: Job) -> str:
    """Runs a job; returns the URI of the dataset that it published."""
    progress = Progress(job.identity.stage)
    jobs_log = logging.getLogger("ray_jobs")  # used by jobs in this process
    jobs_log.addHandler(progress)
    try:
        return run_job(job, progress, partial(slot, job))
    finally:
        jobs_log.removeHandler(progress)


def slot(job: Job) -> AbstractContextManager[None]:
    """A slot of the stage's concurrency limit; nothing where that limit was not created in Prefect."""
    limit = LIMITS.get(job.stage)
    return concurrency(limit, lease_duration=SLOT_LEASE_SECONDS) if limit and _created(limit) else nullcontext()


def _created(limit: str) -> bool:
    """Whether the limit exists. Prefect on SQLite often refuses the first write, so taking a slot costs two seconds."""
    with answering(), get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(limit)
        except ObjectNotFound:
            return False
    return True


class Progress(logging.Handler):
    """Reports the progress of a stage from the lines of its log, and updates its progress artifact in Prefect.

    Args:
        stage: its name.
    """

    def __init__(self, stage: str) -> None:
        super().__init__()
        with answering():
            self.artifact = create_progress_artifact(0.0, _key(f"progress-{stage}"), stage)
        self.stage, self.shown_at = stage, -math.inf

    def submitted(self, submission_id: str, link: str) -> None:
        """Creates a link artifact to the job's page."""
        with answering():
            create_link_artifact(link, submission_id, _key(f"job-{self.stage}"), f"Ray job of {self.stage}")

    def line(self, text: str) -> None:
        """Logs a line of the log of a job on a cluster and takes its figures."""
        log.info("%s", text)
        self.advance(read_figures(text), text)

    def emit(self, record: logging.LogRecord) -> None:
        """Takes the figures of a log record of a job in this process."""
        self.advance(figures_of(record), record.getMessage())

    def advance(self, figures: Figures | None, text: str) -> None:
        """Reports figures, and updates the artifact every few seconds at most; a failed update is ignored."""
        if figures is None:
            return
        report(self.stage, figures)
        now = time.monotonic()
        if figures.total and (figures.done == figures.total or now - self.shown_at >= SHOW_SECONDS):
            self.shown_at = now
            percent = min(100.0, 100.0 * figures.done / figures.total)
            try:
                update_progress_artifact(self.artifact, percent, text.strip())
            except (httpx.HTTPError, RuntimeError) as error:
                log.debug("the progress artifact of %s was not updated: %s", self.stage, error)


def _key(name: str) -> str:
    """A valid artifact key made of ``name``: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())
