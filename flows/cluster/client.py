"""A client of Ray's Jobs API: Ray's own client with timeouts, a token, retries and MMFace errors.

``RAY_ADDRESS`` is the URL of the dashboard and ``RAY_AUTH_TOKEN`` its token. Ray itself reads a token from a file
(``RAY_AUTH_TOKEN_PATH``, ``~/.ray/auth_token``) when ``RAY_AUTH_MODE=token``.
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
# Variables that a job needs to reach the same services; the cluster has its own credentials.
PASSED_ON = ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_REGION", "HF_HUB_OFFLINE")


@dataclass(frozen=True)
class State:
    """The state of a job.

    Attributes:
        error: Ray's type of the failure.
    """

    status: JobStatus
    exit_code: int | None = None
    error: str = ""
    message: str = ""

    @property
    def lost(self) -> bool:
        """Whether it failed for a reason outside the job, such as a lost node, so that a retry may succeed."""
        if self.status != JobStatus.FAILED:
            return False
        code = self.exit_code
        return self.error in LOST if code is None else code == TRY_AGAIN or code < 0 or code > 128


class _Client(JobSubmissionClient):
    """Adds a timeout to Ray's client, which has none."""

    def _do_request(self, *args: Any, **options: Any) -> Any:
        return super()._do_request(*args, timeout=REQUEST_SECONDS, **options)


class Cluster:
    """Jobs on the cluster whose dashboard is at ``address``.

    Args:
        patience: seconds for which a request that gets no answer is retried, with growing pauses.

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
        """The name of the cluster's session; a restarted head has a new one."""
        answer = self._ask(lambda: self._get("/api/version"))
        return str(answer["session_name"])

    def resources(self) -> dict[str, float]:
        """The total resources of all nodes: CPU, GPU, memory."""
        nodes = self._ask(lambda: self._get("/api/v0/nodes?detail=1"))["data"]["result"]["result"]
        total: dict[str, float] = {}
        for node in nodes:
            if node["state"] == "ALIVE":
                for name, amount in node["resources_total"].items():
                    total[name] = total.get(name, 0.0) + amount
        return total

    def jobs(self) -> list[JobDetails]:
        """Every MMFace job that the cluster knows."""
        found = self._ask(self.client.list_jobs)
        return [job for job in found if (job.submission_id or "").startswith(PREFIX)]

    def find(self, submission_id: str) -> State | None:
        """The state of a job; None when the cluster does not know it."""

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
        """Submits a job; False when the cluster already has a job with this id.

        Args:
            resources: of the entrypoint itself.
            environment: environment variables of its processes, in addition to those of ``PASSED_ON``.
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
        """Stops a job and waits for its end; False when it was not running."""
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
        raise ServiceError(f"job {submission_id} still runs {wait:.0f} s after it was told to stop", field=ADDRESS)

    def logs(self, submission_id: str) -> str:
        """The whole log of a job; empty when its node is gone."""
        return self._ask(lambda: self.client.get_job_logs(submission_id))

    def link(self, submission_id: str) -> str:
        """The URL of the job on the dashboard."""
        return f"{self.address}/#/jobs/{submission_id}"

    def _get(self, path: str) -> Any:
        response = self.client._do_request("GET", path)
        if response.status_code != 200:
            raise RuntimeError(f"Request failed with status code {response.status_code}: {response.text:.200}")
        return response.json()

    def _ask(self, request: Callable[[], T]) -> T:
        """The answer to ``request``, which is retried for ``patience`` seconds while nothing answers."""
        end, pause = time.monotonic() + self.patience, FIRST_PAUSE
        while True:
            try:
                with _errors(self.address):
                    return request()
            except UnreachableError as error:
                if time.monotonic() + pause > end:
                    raise
                log.warning("%s; retrying in %.0f s", error, pause)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def runtime_env(environment: Mapping[str, str]) -> dict[str, Any]:
    """The runtime environment of a job: variables, and this package from the wheel of ``MMFACE_WHEEL``, if set.

    Raises:
        InputError: the wheel does not exist.
    """
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    made: dict[str, Any] = {"env_vars": passed_on | dict(environment)}
    wheel = os.environ.get(WHEEL)
    if wheel:
        if not (wheel.endswith(".whl") and Path(wheel).is_file()):
            raise InputError(f"there is no wheel {wheel!r}; build one with pip wheel --no-deps -w dist .", field=WHEEL)
        made["py_modules"] = [wheel]
    return made


@contextmanager
def _errors(address: str) -> Iterator[None]:
    """Translates errors of Ray's client: a wrong token, no answer, a refusal."""
    try:
        yield
    except AuthenticationError as error:
        what = "refuses the token" if "Invalid" in str(error) else "requires a token"
        message = f"the Ray cluster at {address} {what}; set it to what ray get-auth-token prints on the head"
        raise CredentialsError(message, field=TOKEN) from error
    except OSError as error:  # errors of requests are OSErrors too
        remedy = "start the cluster, or unset RAY_ADDRESS to run on this machine"
        raise UnreachableError(f"no Ray dashboard answers at {address}; {remedy}", field=ADDRESS) from error
    except RuntimeError as error:
        first, *_, last = [*str(error).strip().splitlines(), ""]
        message = f"the Ray cluster at {address} refuses: {first} {last}".strip()
        kind = UnreachableError if "status code 5" in first else ServiceError
        raise kind(message, field=ADDRESS) from error
