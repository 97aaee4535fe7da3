"""Runs a job (§10): in this process, or on a cluster through the Ray Jobs API.

With ``RAY_ADDRESS=http(s)://…`` a job is submitted as ``python -m ray_jobs.<stage>`` under an id that depends only on
stage, fingerprint and attempt. The id is recorded in the ledger first, so that a restarted flow finds the job and
attaches to it. If two flows want the same dataset, one runs the job and the other waits (:mod:`mmface.store.leases`);
if both run it all the same, the Jobs API refuses the second job of one id. A job has succeeded when its dataset is
published, whatever its log says.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from flows.cluster import ledger
from flows.cluster.jobs import Job, Log, Watcher
from mmface.config import Resources
from mmface.errors import ServiceError, StageError
from mmface.store.leases import Lease, Owner, held
from mmface.store.reach import dashboard_address

if TYPE_CHECKING:
    from flows.cluster.client import Cluster, State

log = logging.getLogger(__name__)

PAUSE_SECONDS = 5.0  # before the next attempt after a lost job; doubles each time


def run_job(
    job: Job, watcher: Watcher | None = None, slot: Callable[[], AbstractContextManager[object]] = nullcontext
) -> str:
    """Runs ``job`` until its dataset is published; returns the dataset's URI, at once if it is published already.

    If this process stops waiting, because of an error, an interrupt or a time limit, it stops the job on the cluster.
    Only a killed process leaves its job running.

    Args:
        watcher: of a job on a cluster.
        slot: entered while this process runs the job, not while it waits for another process.

    Raises:
        StageError: the job ended without publishing, was stopped, exceeded its time limit, or was lost in every
            attempt.
        UnreachableError: the cluster, or a service that the stage needs, does not answer.
        MMFaceError: what the stage raised.
    """
    owner = Owner.this(job.flow_run, job.inputs.values())
    with held(job.home, job.lease, owner, finished=lambda: job.published() is not None) as lease:
        if lease is not None and job.published() is None:
            with slot(), _limited(job):
                _run(job, lease, watcher or Log())
    done = job.published()
    if done is None:
        raise StageError("the job ended but published nothing; see its log", field=job.identity.stage)
    return done


def _run(job: Job, lease: Lease, watcher: Watcher) -> None:
    address = dashboard_address()
    if address:
        from flows.cluster.client import Cluster

        run_on_cluster(job, Cluster(address, job.settings.patience_s), lease, watcher)
    else:
        _record(job, job.attempt(0), "", "")
        job.run_here(watcher)


def run_on_cluster(job: Job, cluster: Cluster, lease: Lease, watcher: Watcher) -> None:
    """Submits ``job`` or attaches to a running attempt, and waits until it succeeds.

    Raises:
        StageError: see :func:`run_job`.
        UnreachableError: the cluster does not answer.
    """
    from flows.cluster.watch import watch

    for tries in range(job.settings.attempts):
        if tries:
            time.sleep(PAUSE_SECONDS * 2 ** (tries - 1))
        submission_id = submit(job, cluster)
        with _stopping(cluster, submission_id, lease):
            watcher.submitted(submission_id, cluster.link(submission_id))
            state = watch(cluster, submission_id, lease.check, watcher.line)
        if state is not None and not state.lost:
            _judge(job, submission_id, state)
            return
        log.warning("%s was lost: %s", submission_id, _reason(state))
        if job.published():
            return
    message = f"{job.settings.attempts} jobs in a row were lost ({_reason(state)}); see the cluster's log"
    raise StageError(f"{message}; run again to resume", field=job.stage)


def submit(job: Job, cluster: Cluster) -> str:
    """Attaches to the running attempt of ``job``, or submits the next one; returns its submission id."""
    session = cluster.session()
    number = 0
    while True:
        submission_id = job.attempt(number)
        state = cluster.find(submission_id)
        if state is not None and not state.status.is_terminal():
            log.info("%s: attached to job %s", job.identity.stage, submission_id)
            return submission_id
        entry = ledger.find(job.home, submission_id) if state is None else None
        # With an entry of this session of the cluster, but no job: the process that recorded it never submitted it.
        if state is None and (entry is None or entry.session == session):
            _record(job, submission_id, cluster.address, session)
            resources = job.settings.resources.get(job.stage, Resources())
            new = cluster.submit(submission_id, job.entrypoint, resources, job.environment)
            log.info("%s: %s job %s", job.identity.stage, "submitted" if new else "attached to", submission_id)
            return submission_id
        number += 1


@contextmanager
def _stopping(cluster: Cluster, submission_id: str, lease: Lease) -> Iterator[None]:
    """Stops the job if the context ends with an error, unless another process has taken over the lease."""
    finished = False
    try:
        yield
        finished = True
    finally:
        if not finished and not lease.lost:
            from flows.cluster.client import Cluster

            try:
                if Cluster(cluster.address).stop(submission_id):  # without waiting for a head that does not answer
                    log.info("stopped job %s", submission_id)
            except ServiceError as error:
                lease.abandon()
                log.warning("job %s may still run: %s; stop it with mmface reap", submission_id, error)


def _judge(job: Job, submission_id: str, state: State) -> None:
    """Raises StageError unless the job succeeded."""
    from ray.job_submission import JobStatus

    if state.status == JobStatus.STOPPED:
        raise StageError(f"job {submission_id} was stopped; run again to resume", field=job.identity.stage)
    if state.status != JobStatus.SUCCEEDED:
        raise StageError(f"job {submission_id} failed: {_reason(state)}", field=job.identity.stage)


def _reason(state: State | None) -> str:
    if state is None:
        return "the cluster was restarted and does not know the job"
    return next((line for line in reversed(state.message.splitlines()) if line.strip()), str(state.status))


@contextmanager
def _limited(job: Job) -> Iterator[None]:
    """Raises StageError when the stage exceeds its time limit."""
    from prefect.utilities.timeout import timeout

    seconds = job.settings.timeout_s.get(job.stage)
    try:
        with timeout(seconds=seconds, timeout_exc_type=_TooLongError):
            yield
    except _TooLongError:
        message = f"the stage took longer than {seconds} s; raise the limit and run again to resume"
        raise StageError(message, field=f"jobs.timeout_s.{job.stage}") from None


class _TooLongError(TimeoutError):
    """The stage's time limit, as opposed to the time-out of a server."""


def _record(job: Job, submission_id: str, address: str, session: str) -> None:
    entry = ledger.Entry(submission_id, job.identity.stage, job.arguments, address, session, job.flow_run, job.lease)
    ledger.record(job.home, entry)
