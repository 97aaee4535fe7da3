"""The task that runs a stage: retries, limits, and what it shows in Prefect."""

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

from flows.cluster.jobs import Job, run_job
from flows.cluster.server import answering
from mmface.config import Entrypoint
from mmface.errors import UnreachableError

log = logging.getLogger(__name__)

# Global concurrency limits of Prefect, which `mmface deploy` creates.
LIMITS: dict[Entrypoint, str] = {
    "images": "mmface-prepare",
    "conditions": "mmface-prepare",
    "captions": "mmface-prepare",
    "text": "mmface-prepare",
    "latents": "mmface-prepare",
    "train": "mmface-train",
}
SLOT_LEASE_SECONDS = 60.0  # after which a killed process's slot is free again
SHOW_SECONDS = 5.0
_PROGRESS = re.compile(r"(?:^|\s)\w[\w-]*(?: \d+)?(?: \(\d+ px\))?: (?:step )?(\d+)(?:/| of )(\d+)\b")


def worth_retrying(task: object, run: object, state: State[Any]) -> bool:
    """Whether a service did not answer; a user's mistake stays one."""
    return isinstance(state.result(raise_on_failure=False), UnreachableError)


# Fingerprints are the cache: a published dataset is found before a task is made.
@task(
    cache_policy=NO_CACHE,
    retries=3,
    retry_delay_seconds=exponential_backoff(backoff_factor=10),
    retry_jitter_factor=0.3,
    retry_condition_fn=worth_retrying,
)
def work(job: Job) -> str:
    """Runs one job to its published dataset."""
    progress = Progress(job.identity.stage)
    jobs_log = logging.getLogger("ray_jobs")  # of a stage that runs in this process
    jobs_log.addHandler(progress)
    try:
        return run_job(job, progress, partial(slot, job))
    finally:
        jobs_log.removeHandler(progress)


def slot(job: Job) -> AbstractContextManager[None]:
    """A slot of the limit that the stage counts under, where that was created."""
    limit = LIMITS.get(job.stage)
    return concurrency(limit, lease_duration=SLOT_LEASE_SECONDS) if limit and _created(limit) else nullcontext()


def _created(limit: str) -> bool:
    """Asked first, since Prefect on SQLite often refuses the write of a slot at first, which costs two seconds."""
    with answering(), get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(limit)
        except ObjectNotFound:
            return False
    return True


class Progress(logging.Handler):
    """A stage's progress artifact, moved on by the lines of its log.

    Args:
        stage: what is shown.
    """

    def __init__(self, stage: str) -> None:
        super().__init__()
        with answering():
            self.artifact = create_progress_artifact(0.0, _key(f"progress-{stage}"), stage)
        self.stage, self.shown_at = stage, -math.inf

    def submitted(self, submission_id: str, link: str) -> None:
        """Links the Ray job."""
        with answering():
            create_link_artifact(link, submission_id, _key(f"job-{self.stage}"), f"Ray job of {self.stage}")

    def line(self, text: str) -> None:
        """A line of the job's log: passed on, and read for how far the stage is."""
        log.info("%s", text)
        self.advance(text)

    def emit(self, record: logging.LogRecord) -> None:
        """The same of a stage in this process, whose lines are passed on already."""
        self.advance(record.getMessage())

    def advance(self, text: str) -> None:
        """Moves the artifact on, at most every few seconds; nothing is worth a stage's failure."""
        found = _PROGRESS.search(text)
        if not found:
            return
        done, total = int(found[1]), int(found[2])
        now = time.monotonic()
        if total and (done == total or now - self.shown_at >= SHOW_SECONDS):
            self.shown_at = now
            try:
                update_progress_artifact(self.artifact, min(100.0, 100.0 * done / total), text.strip())
            except (httpx.HTTPError, RuntimeError) as error:
                log.debug("the progress of %s could not be shown: %s", self.stage, error)


def _key(name: str) -> str:
    """An artifact's key: lower case, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())
