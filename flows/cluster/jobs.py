"""The job client (§10): runs a stage's entrypoint in this process, or on a cluster through the Ray Jobs API.

With ``RAY_ADDRESS=http(s)://…`` a stage is submitted as ``python -m ray_jobs.<stage>`` under an id that is a pure
function of stage, fingerprint and attempt, recorded in the ledger first; a restarted flow finds it and re-attaches.
Of two flows that want the same stage one works and the other waits (:mod:`flows.cluster.leases`); should both work
all the same, the Jobs API refuses the second job of one id. Success is a published dataset, never a log line.
"""

from __future__ import annotations

import importlib
import logging
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from flows.cluster import ledger
from flows.cluster.leases import Lease, Owner, held
from mmface.bundles import tracking
from mmface.config import Entrypoint, Jobs, Recipe, Resources, fingerprint
from mmface.datasets.dataset import published
from mmface.datasets.manifest import Identity
from mmface.errors import ServiceError, StageError
from mmface.store import HOME_VARIABLE, Store
from mmface.store.reach import dashboard_address

if TYPE_CHECKING:
    from flows.cluster.client import Cluster, State

log = logging.getLogger(__name__)

PAUSE_SECONDS = 5.0  # before a lost job is tried again; doubles


class Watcher(Protocol):
    """Whoever wants to know how a job on a cluster goes."""

    def submitted(self, submission_id: str, link: str) -> None:
        """It is there, with a page of its own."""

    def line(self, text: str) -> None:
        """It said something."""


class Log:
    """A watcher that writes to the log."""

    def submitted(self, submission_id: str, link: str) -> None:
        """See :class:`Watcher`."""
        log.info("%s", link)

    def line(self, text: str) -> None:
        """See :class:`Watcher`."""
        log.info("%s", text)


@dataclass(frozen=True)
class Job:
    """One stage to run: the entrypoint's module and what its command line says."""

    stage: Entrypoint
    identity: Identity
    recipe: str
    home: Store
    phase: int = 0
    mlflow_run: str | None = None
    flow_run: str = ""
    settings: Jobs = field(default_factory=Jobs)

    @property
    def module(self) -> str:
        """What ``python -m`` runs."""
        return f"ray_jobs.{self.stage}"

    @property
    def arguments(self) -> list[str]:
        """Command line of the entrypoint."""
        arguments = ["--recipe", self.recipe, "--home", self.home.uri, "--phase", str(self.phase)]
        for name, uri in self.identity.inputs.items():
            arguments += ["--inputs", f"{name}={uri}"]
        return arguments + (["--mlflow-run", self.mlflow_run] if self.mlflow_run else [])

    @property
    def entrypoint(self) -> str:
        """The shell's command line."""
        return shlex.join(["python", "-m", self.module, *self.arguments])

    @property
    def environment(self) -> dict[str, str]:
        """Where the job's processes find what they share with this one."""
        places = {HOME_VARIABLE: self.home.uri}
        return places | ({tracking.TRACKING_VARIABLE: tracking.tracking_uri()} if self.mlflow_run else {})

    @property
    def lease(self) -> str:
        """What an owner of this work holds."""
        return f"{self.identity.stage}-{self.identity.fingerprint}"

    def attempt(self, number: int) -> str:
        """The submission id of an attempt."""
        return ledger.attempt(self.lease, number)

    def published(self) -> str | None:
        """The dataset's URI once it is there."""
        return published(self.home, self.identity)

    def run_here(self, watcher: Watcher) -> None:
        """Runs it without a cluster; raises what the stage raises."""
        importlib.import_module(self.module).main(self.arguments)


def save_recipe(home: Store, recipe: Recipe) -> str:
    """Keeps the resolved recipe where every job can read it; returns its URI."""
    key = f"recipes/{fingerprint(recipe)}.yaml"
    home.write(key, recipe.to_yaml().encode())
    return f"{home.uri}/{key}"


def run_job(
    job: Job, watcher: Watcher | None = None, slot: Callable[[], AbstractContextManager[object]] = nullcontext
) -> str:
    """Runs ``job`` to its published dataset and returns the URI; at once if it is published already.

    By whatever it ends, an error, an interrupt, a time limit, no job goes on without this process, unless it is killed.

    Args:
        watcher: of a job on a cluster.
        slot: held while the work is done, not while another process does it.

    Raises:
        StageError: the job ended without publishing, was stopped, took too long, or was lost again and again.
        UnreachableError: the cluster, or a service that the stage needs, does not answer.
        MMFaceError: what the stage raised.
    """
    owner = Owner.this(job.flow_run, job.identity.inputs.values())
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
    """Submits ``job``, or attaches to the one that is at work, and waits for its success; see :func:`run_job`."""
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
    remedy = "see the cluster's log; run again to go on where it stopped"
    raise StageError(f"{job.settings.attempts} jobs were lost in a row ({_reason(state)}); {remedy}", field=job.stage)


def submit(job: Job, cluster: Cluster) -> str:
    """The id of the attempt that is at work: one that was found, or the next one, submitted now."""
    session = cluster.session()
    number = 0
    while True:
        submission_id = job.attempt(number)
        state = cluster.find(submission_id)
        if state is not None and not state.status.is_terminal():
            log.info("%s: attached to job %s", job.identity.stage, submission_id)
            return submission_id
        entry = ledger.find(job.home, submission_id) if state is None else None
        # Of this life of the cluster: whoever wrote the entry has not come to submit it.
        if state is None and (entry is None or entry.session == session):
            _record(job, submission_id, cluster.address, session)
            resources = job.settings.resources.get(job.stage, Resources())
            new = cluster.submit(submission_id, job.entrypoint, resources, job.environment)
            log.info("%s: %s job %s", job.identity.stage, "submitted" if new else "attached to", submission_id)
            return submission_id
        number += 1


@contextmanager
def _stopping(cluster: Cluster, submission_id: str, lease: Lease) -> Iterator[None]:
    """Stops the job when this process ceases to wait for it, unless another has taken it over."""
    finished = False
    try:
        yield
        finished = True
    finally:
        if not finished and not lease.lost:
            from flows.cluster.client import Cluster

            try:
                if Cluster(cluster.address).stop(submission_id):  # with no patience
                    log.info("stopped job %s", submission_id)
            except ServiceError as error:
                lease.abandon()
                log.warning("job %s may go on: %s; mmface reap stops it", submission_id, error)


def _judge(job: Job, submission_id: str, state: State) -> None:
    """Raises unless the job succeeded."""
    from ray.job_submission import JobStatus

    if state.status == JobStatus.STOPPED:
        message = f"job {submission_id} was stopped; run again to go on where it stopped"
        raise StageError(message, field=job.identity.stage)
    if state.status != JobStatus.SUCCEEDED:
        raise StageError(f"job {submission_id} failed: {_reason(state)}", field=job.identity.stage)


def _reason(state: State | None) -> str:
    if state is None:
        return "the cluster was started anew and does not know it"
    return next((line for line in reversed(state.message.splitlines()) if line.strip()), str(state.status))


@contextmanager
def _limited(job: Job) -> Iterator[None]:
    """The stage's time limit."""
    from prefect.utilities.timeout import timeout

    seconds = job.settings.timeout_s.get(job.stage)
    try:
        with timeout(seconds=seconds, timeout_exc_type=_TooLongError):
            yield
    except _TooLongError:
        message = f"the stage took longer than {seconds} s; raise the limit, run again to go on where it stopped"
        raise StageError(message, field=f"jobs.timeout_s.{job.stage}") from None


class _TooLongError(TimeoutError):
    """Not to be taken for a server's time-out."""


def _record(job: Job, submission_id: str, address: str, session: str) -> None:
    entry = ledger.Entry(submission_id, job.identity.stage, job.arguments, address, session, job.flow_run, job.lease)
    ledger.record(job.home, entry)
