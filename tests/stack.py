"""A local stack for tests: `mmface up` in its own folder, a tiny collection on its S3, and its deployments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

# Stages of a retraining with one phase at 32 pixels, photographs being given.
STAGES = {"images", "conditions", "captions", "text", "latents-32", "train-0-32"}
STAGES |= {"evalset", "samples", "scores", "bundle"}

if TYPE_CHECKING:
    from prefect.states import State

T = TypeVar("T")

ROOT = Path(__file__).parents[1]
ADDRESSES = (
    "PREFECT_API_URL",
    "MLFLOW_TRACKING_URI",
    "RAY_ADDRESS",
    "MMFACE_HOME",
    "AWS_ENDPOINT_URL",
    "MMFACE_SERVE_URL",
)
# Small enough for two cores: images of 32 pixels, one phase, every stage.
TINY = {
    "data.min_size": 32,
    "data.holdout": 0.3,
    "data.captions_per_image": 2,
    "model.hidden_size": 64,
    "model.depth": 2,
    "model.num_heads": 4,
    "phases": "[{resolution: 32, steps: 6, batch_size: 4}]",
    "sampling.num_inference_steps": 2,
    "evaluate.n": 4,
    "evaluate.n_sketch": 2,
    "evaluate.grid": 2,
    "gate.min_mask_miou": 0,
    "gate.min_hair_colour": 0,
    "serve.follow_s": 1,
}
PHOTOS = "s3://mmface/photos"


@dataclass
class Stack:
    """A running stack.

    Attributes:
        environment: this process's environment with the variables of `mmface up --env`.
    """

    folder: Path
    environment: dict[str, str]

    def mmface(self, *arguments: str, timeout: float = 400.0) -> subprocess.CompletedProcess[str]:
        """Runs an `mmface` command against the stack."""
        return mmface(*arguments, environment=self.environment, timeout=timeout)

    def state(self) -> dict[str, Any]:
        """The state that the supervisor wrote last."""
        return dict(json.loads((self.folder / "state.json").read_text()))

    def settings(self, **changed: object) -> list[str]:
        """Overrides that make a tiny recipe on the photographs in the stack's S3."""
        source = f"[{{name: photos, images: {PHOTOS}/images, masks: {PHOTOS}/masks}}]"
        return [f"{key}={value}" for key, value in {**TINY, "sources": source, **changed}.items()]

    def log(self, name: str) -> str:
        """The log of a service."""
        return (self.folder / "logs" / f"{name}.log").read_text(errors="replace")


def mmface(*arguments: str, environment: dict[str, str], timeout: float = 400.0) -> subprocess.CompletedProcess[str]:
    """Runs an `mmface` command and captures stdout and stderr separately."""
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)


def bare_environment() -> dict[str, str]:
    """This process's environment without the addresses of services."""
    kept = {name: value for name, value in os.environ.items() if name not in ADDRESSES}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    # By default Ray gives its workers a low priority, with which a test would take minutes.
    quick = {"RAY_worker_niceness": "0", "PREFECT_WORKER_QUERY_SECONDS": "1"}
    return {**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **quick}


@contextmanager
def stack(folder: Path, *options: str) -> Iterator[Stack]:
    """Runs `mmface up` on free ports, and `mmface down` at the end in any case."""
    environment = bare_environment()
    sizes = ["--cpus", "3", "--object-store-mb", "200"]
    up = mmface("up", "--detach", "--free-ports", *sizes, "--folder", str(folder), *options, environment=environment)
    try:
        assert up.returncode == 0, up.stderr + up.stdout
        lines = mmface("up", "--env", "--folder", str(folder), environment=environment).stdout.splitlines()
        exported = dict(line.removeprefix("export ").split("=", 1) for line in lines)
        yield Stack(folder, environment | exported)
    finally:
        mmface("down", "--folder", str(folder), environment=environment)


@contextmanager
def inside(environment: dict[str, str]) -> Iterator[None]:
    """Runs the context with that environment in this process."""
    import boto3
    from prefect.settings import PREFECT_API_URL, temporary_settings

    before = dict(os.environ)
    os.environ.update(environment)
    boto3.setup_default_session()  # boto3 keeps its first credentials, as Prefect keeps its first address
    try:
        with temporary_settings({PREFECT_API_URL: environment["PREFECT_API_URL"]}):
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        boto3.setup_default_session()


def upload_photographs(count: int, folder: Path) -> None:
    """Draws portraits of 64 pixels and uploads them to the stack's S3."""
    from mmface.data.portraits import write_collection
    from mmface.store import Store

    write_collection(folder, count, 64, 0)
    for part in ("images", "masks"):
        Store(PHOTOS).upload(folder / part, part)


def schedule(deployment: str, seconds: float = 15.0) -> UUID:
    """Schedules a deployment every minute, first in ``seconds``; returns the id of the deployment."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.schedules import IntervalSchedule

    when = IntervalSchedule(interval=timedelta(minutes=1), anchor_date=datetime.now(UTC) + timedelta(seconds=seconds))
    with get_client(sync_client=True) as client:
        found = client.read_deployment_by_name(deployment)
        client.create_deployment_schedules(found.id, [(when, True)])
    return UUID(str(found.id))


def start(deployment: str) -> UUID:
    """Starts a deployment now; returns the id of the flow run."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found = client.read_deployment_by_name(deployment)
        return UUID(str(client.create_flow_run_from_deployment(found.id).id))


def pause(deployment: str) -> None:
    """Pauses the schedules of a deployment."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        client.pause_deployment(client.read_deployment_by_name(deployment).id)


def first_run(deployment: UUID) -> UUID | None:
    """The first flow run that a deployment has started, if there is one."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
    from prefect.client.schemas.sorting import FlowRunSort

    chosen = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(deployment_filter=chosen, sort=FlowRunSort.START_TIME_ASC)
    return next((UUID(str(run.id)) for run in runs if run.start_time), None)


def state_of(flow_run: UUID) -> State[Any] | None:
    """The state of a flow run; None while the server does not answer."""
    import httpx
    from prefect.client.orchestration import get_client

    try:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(flow_run).state
    except httpx.HTTPError:
        return None


def wait_for(ask: Callable[[], T | None], timeout: float, what: str) -> T:
    """Calls ``ask`` until it returns something true; returns that. Raises TimeoutError."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        answer = ask()
        if answer:
            return answer
        time.sleep(0.5)
    raise TimeoutError(f"{what}: timed out after {timeout:.0f} s")


def ended(flow_run: UUID) -> State[Any] | None:
    """The state of a flow run that has ended; None while it runs."""
    state = state_of(flow_run)
    return state if state is not None and state.is_final() else None
