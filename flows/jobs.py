"""The job client (§10): runs a stage's entrypoint in this process, or on a cluster through the Ray Jobs API.

With ``RAY_ADDRESS=http(s)://…`` a stage is submitted as ``python -m ray_jobs.<stage>`` under an id that is a pure
function of stage, fingerprint and attempt, recorded in the ledger first; a restarted flow finds it and re-attaches.
Success is a published dataset, never a log line.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import time
from dataclasses import dataclass

from mmface.config import Recipe, fingerprint
from mmface.dataset import published
from mmface.errors import ServiceError, StageError
from mmface.manifest import Identity
from mmface.storage import Store

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
PASSED_ON = ("MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")


@dataclass(frozen=True)
class Job:
    """One stage to run: the entrypoint's module and what its command line says."""

    stage: str
    identity: Identity
    recipe: str
    home: Store
    phase: int = 0
    mlflow_run: str | None = None

    @property
    def arguments(self) -> list[str]:
        """Command line of the entrypoint."""
        arguments = ["--recipe", self.recipe, "--home", self.home.uri, "--phase", str(self.phase)]
        for name, uri in self.identity.inputs.items():
            arguments += ["--inputs", f"{name}={uri}"]
        return arguments + (["--mlflow-run", self.mlflow_run] if self.mlflow_run else [])


def save_recipe(home: Store, recipe: Recipe) -> str:
    """Keeps the resolved recipe where every job can read it; returns its URI."""
    key = f"recipes/{fingerprint(recipe)}.yaml"
    home.write(key, recipe.to_yaml().encode())
    return f"{home.uri}/{key}"


def run_job(job: Job) -> str:
    """Runs ``job`` to its published dataset and returns the URI; at once if it is published already.

    Raises:
        StageError: the job ended without publishing.
        ServiceError: the cluster cannot be reached.
    """
    found = published(job.home, job.identity)
    if found:
        return found
    address = os.environ.get("RAY_ADDRESS", "")
    if address.startswith(("http://", "https://")):
        _run_on_cluster(job, address)
    else:
        _record(job, _submission_id(job, 0), "")
        importlib.import_module(f"ray_jobs.{job.stage}").main(job.arguments)
    done = published(job.home, job.identity)
    if done is None:
        raise StageError("the job ended but published nothing; see its log", field=job.identity.stage)
    return done


def _run_on_cluster(job: Job, address: str) -> None:
    from ray.job_submission import JobStatus, JobSubmissionClient

    try:
        client = JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        remedy = "start the cluster, or unset RAY_ADDRESS to run on this machine"
        raise ServiceError(f"no Ray dashboard answers at {address}; {remedy}", field="RAY_ADDRESS") from error
    known = {details.submission_id: details for details in client.list_jobs()}
    attempt = 0
    while (earlier := known.get(_submission_id(job, attempt))) is not None and earlier.status.is_terminal():
        attempt += 1
    submission_id = _submission_id(job, attempt)
    if earlier is None:
        _record(job, submission_id, address)
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        client.submit_job(
            entrypoint=" ".join(["python", "-m", f"ray_jobs.{job.stage}", *job.arguments]),
            submission_id=submission_id,
            runtime_env={"env_vars": environment},
        )
    log.info("%s: %s job %s", job.identity.stage, "re-attached to" if earlier else "submitted", submission_id)
    while not (status := client.get_job_status(submission_id)).is_terminal():
        time.sleep(POLL_SECONDS)
    if status != JobStatus.SUCCEEDED:
        tail = client.get_job_logs(submission_id).strip().splitlines()[-1:]
        raise StageError(f"job {submission_id} ended {status}: {' '.join(tail)}", field=job.identity.stage)


def _record(job: Job, submission_id: str, address: str) -> None:
    """Enters a job into the ledger: what is in work, where, and from which datasets."""
    entry = {"submission_id": submission_id, "arguments": job.arguments, "address": address}
    job.home.write(f"ledger/{submission_id}.json", json.dumps(entry).encode())


def _submission_id(job: Job, attempt: int) -> str:
    return f"mmface-{job.identity.stage}-{job.identity.fingerprint}-{attempt}"
