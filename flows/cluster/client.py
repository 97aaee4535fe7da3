"""A Ray cluster through its Jobs API: Ray's own client, with timeouts, a token, patience and errors of ours.

``RAY_ADDRESS`` is the dashboard's URL and ``RAY_AUTH_TOKEN`` its token. A token in a file (``RAY_AUTH_TOKEN_PATH``,
``~/.ray/auth_token``) is read by Ray itself when ``RAY_AUTH_MODE=token``.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from mmface.config import Resources
from mmface.errors import TRY_AGAIN, CredentialsError, InputError, ServiceError, UnreachableError

log = logging.getLogger(__name__)

T = TypeVar("T")
ADDRESS, TOKEN, WHEEL = "RAY_ADDRESS", "RAY_AUTH_TOKEN", "MMFACE_WHEEL"
REQUEST_SECONDS = 30.0
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
PREFIX = "mmface-"
LOST = (
    "JOB_SUPERVISOR_ACTOR_DIED",
    "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE",
    "JOB_SUPERVISOR_ACTOR_START_FAILURE",
)
# What a job must know to reach the same places; credentials are the cluster's own.
PASSED_ON = ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_REGION", "HF_HUB_OFFLINE")


@dataclass(frozen=True)
class State:
    """How a job stands.

    Attributes:
        error: Ray's kind of failure.
    """

    status: JobStatus
    exit_code: int | None = None
    error: str = ""
    message: str = ""

    @property
    def lost(self) -> bool:
        """Whether it ended through no fault of its own: it may be tried again."""
        if self.status != JobStatus.FAILED:
            return False
        code = self.exit_code
        return self.error in LOST if code is None else code == TRY_AGAIN or code < 0 or code > 128


class _Client(JobSubmissionClient):
    """Ray's client never times out."""

    def _do_request(self, *args: Any, **options: Any) -> Any:
        return super()._do_request(*args, timeout=REQUEST_SECONDS, **options)


class Cluster:
    """Jobs on the cluster whose dashboard is at ``address``.

    Args:
        patience: seconds for which a head that does not answer is asked again, with growing pauses.

    Raises:
        CredentialsError: the token is wrong or missing; raised by every method.
        UnreachableError: nothing answers within ``patience``; raised by every method.
    """

    def __init__(self, address: str, patience: float = 0.0) -> None:
        self.address, self.patience = address.rstrip("/"), patience
        token = os.environ.get(TOKEN)
        headers = {"Authorization": f"Bearer {token}"} if token else None
        self.client: _Client = self._ask(lambda: _Client(self.address, headers=headers))

    def session(self) -> str:
        """Which life of the cluster this is."""
        answer = self._ask(lambda: self._get("/api/version"))
        return str(answer["session_name"])

    def resources(self) -> dict[str, float]:
        """What all nodes have together: CPU, GPU, memory."""
        nodes = self._ask(lambda: self._get("/api/v0/nodes?detail=1"))["data"]["result"]["result"]
        total: dict[str, float] = {}
        for node in nodes:
            if node["state"] == "ALIVE":
                for name, amount in node["resources_total"].items():
                    total[name] = total.get(name, 0.0) + amount
        return total

    def jobs(self) -> list[JobDetails]:
        """Every job of ours that the cluster remembers."""
        found = self._ask(self.client.list_jobs)
        return [job for job in found if (job.submission_id or "").startswith(PREFIX)]

    def find(self, submission_id: str) -> State | None:
        """How a job stands; None when the cluster does not know it."""

        def ask() -> State | None:
            try:
                job = self.client.get_job_info(submission_id)
            except RuntimeError as error:
                if "status code 404" in str(error):
                    return None
                raise
            return State(job.status, job.driver_exit_code, job.error_type or "", job.message or "")

        return self._ask(ask)

    def submit(self, submission_id: str, entrypoint: str, resources: Resources, environment: Mapping[str, str]) -> bool:
        """Submits a job; False when the cluster has one of this id already.

        Args:
            resources: of the entrypoint itself.
            environment: variables of its processes, besides those of ``PASSED_ON``.
        """

        def ask() -> bool:
            try:
                self.client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=submission_id,
                    runtime_env=runtime_env(environment),
                    entrypoint_num_cpus=resources.cpus or None,
                    entrypoint_num_gpus=resources.gpus or None,
                    entrypoint_memory=int(resources.memory_gib * 2**30) or None,
                )
            except RuntimeError as error:
                if "already exists" in str(error):
                    return False
                raise
            return True

        return self._ask(ask)

    def stop(self, submission_id: str, wait: float = 20.0) -> bool:
        """Stops a job and waits for its end; False when it did not run."""
        state = self.find(submission_id)
        if state is None or state.status.is_terminal():
            return False
        self._ask(lambda: self.client.stop_job(submission_id))
        end = time.monotonic() + wait
        while time.monotonic() < end:
            state = self.find(submission_id)
            if state is None or state.status.is_terminal():
                return True
            time.sleep(0.2)
        raise ServiceError(f"job {submission_id} was asked to stop and still runs after {wait:.0f} s", field=ADDRESS)

    def logs(self, submission_id: str) -> str:
        """All that a job has said; empty when its node is gone."""
        return self._ask(lambda: self.client.get_job_logs(submission_id))

    def link(self, submission_id: str) -> str:
        """The job's page on the dashboard."""
        return f"{self.address}/#/jobs/{submission_id}"

    def _get(self, path: str) -> Any:
        response = self.client._do_request("GET", path)
        if response.status_code != 200:
            raise RuntimeError(f"Request failed with status code {response.status_code}: {response.text:.200}")
        return response.json()

    def _ask(self, request: Callable[[], T]) -> T:
        """The answer to ``request``, asked again for a while when there is none."""
        end, pause = time.monotonic() + self.patience, FIRST_PAUSE
        while True:
            try:
                with _errors(self.address):
                    return request()
            except UnreachableError as error:
                if time.monotonic() + pause > end:
                    raise
                log.warning("%s; asking again in %.0f s", error, pause)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def runtime_env(environment: Mapping[str, str]) -> dict[str, Any]:
    """What a job runs in: the cluster's own packages, and this one from the wheel that ``MMFACE_WHEEL`` names, if any.

    Raises:
        InputError: there is no such wheel.
    """
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    made: dict[str, Any] = {"env_vars": passed_on | dict(environment)}
    wheel = os.environ.get(WHEEL)
    if wheel:
        if not (wheel.endswith(".whl") and Path(wheel).is_file()):
            raise InputError(f"no wheel {wheel!r}; make one with pip wheel --no-deps -w dist .", field=WHEEL)
        made["py_modules"] = [wheel]
    return made


@contextmanager
def _errors(address: str) -> Iterator[None]:
    """What Ray's client raises, told apart: a wrong token, no answer, a refusal."""
    try:
        yield
    except AuthenticationError as error:
        what = "refuses the token" if "Invalid" in str(error) else "wants a token"
        message = f"the Ray cluster at {address} {what}; set it to what ray get-auth-token prints on the head"
        raise CredentialsError(message, field=TOKEN) from error
    except OSError as error:  # of requests too
        remedy = "start the cluster, or unset RAY_ADDRESS to run on this machine"
        raise UnreachableError(f"no Ray dashboard answers at {address}; {remedy}", field=ADDRESS) from error
    except RuntimeError as error:
        first, *_, last = [*str(error).strip().splitlines(), ""]
        message = f"the Ray cluster at {address} refuses: {first} {last}".strip()
        kind = UnreachableError if "status code 5" in first else ServiceError
        raise kind(message, field=ADDRESS) from error
