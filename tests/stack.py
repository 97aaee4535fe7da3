"""A local stack as tests use it: `mmface up` in a folder of its own, a tiny collection on its S3, one deployment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

ROOT = Path(__file__).parents[1]
ADDRESSES = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "RAY_ADDRESS", "MMFACE_HOME", "AWS_ENDPOINT_URL", "MMFACE_SERVE_URL")
# Small enough for two cores: a picture of 32 pixels, one phase, every stage.
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
    """A stack that is up.

    Attributes:
        environment: what `mmface up --env` prints, and ours.
    """

    folder: Path
    environment: dict[str, str]

    def mmface(self, *arguments: str, timeout: float = 400.0) -> subprocess.CompletedProcess[str]:
        """Runs a command of the product against the stack."""
        return mmface(*arguments, environment=self.environment, timeout=timeout)

    def state(self) -> dict[str, Any]:
        """What the supervisor wrote last."""
        return dict(json.loads((self.folder / "state.json").read_text()))

    def settings(self, **changed: object) -> list[str]:
        """The tiny recipe on the photographs in the stack's S3."""
        source = f"[{{name: photos, images: {PHOTOS}/images, masks: {PHOTOS}/masks}}]"
        return [f"{key}={value}" for key, value in {**TINY, "sources": source, **changed}.items()]

    def log(self, name: str) -> str:
        """What a service has said."""
        return (self.folder / "logs" / f"{name}.log").read_text(errors="replace")


def mmface(
    *arguments: str, environment: dict[str, str], timeout: float = 400.0
) -> subprocess.CompletedProcess[str]:
    """Runs a command; stdout and stderr are kept apart."""
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)


def bare_environment() -> dict[str, str]:
    """This process's, without any address."""
    kept = {name: value for name, value in os.environ.items() if name not in ADDRESSES}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@contextmanager
def stack(folder: Path, *options: str) -> Iterator[Stack]:
    """`mmface up` on free ports; whatever happens, `mmface down` at the end."""
    environment = bare_environment()
    sizes = ["--cpus", "3", "--object-store-mb", "200"]
    up = mmface("up", "--detach", "--free-ports", *sizes, "--folder", str(folder), *options, environment=environment)
    try:
        assert up.returncode == 0, up.stderr + up.stdout
        lines = mmface("up", "--env", "--folder", str(folder), environment=environment).stdout.splitlines()
        told = dict(line.removeprefix("export ").split("=", 1) for line in lines)
        yield Stack(folder, environment | told)
    finally:
        mmface("down", "--folder", str(folder), environment=environment)


@contextmanager
def inside(environment: dict[str, str]) -> Iterator[None]:
    """This process in that environment."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def upload_photographs(count: int, folder: Path) -> None:
    """Draws portraits of 64 pixels and puts them into the stack's S3."""
    from mmface.data.portraits import write_collection
    from mmface.storage import Store

    write_collection(folder, count, 64, 0)
    for part in ("images", "masks"):
        Store(PHOTOS).upload(folder / part, part)


def schedule(deployment: str, seconds: float = 3.0) -> UUID:
    """Gives a deployment a schedule whose next time is in ``seconds``; the deployment's id."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.schedules import IntervalSchedule

    when = IntervalSchedule(interval=timedelta(days=30), anchor_date=datetime.now(UTC) + timedelta(seconds=seconds))
    with get_client(sync_client=True) as client:
        found = client.read_deployment_by_name(deployment)
        client.create_deployment_schedules(found.id, [(when, True)])
    return UUID(str(found.id))


def wait_for_run(deployment: UUID, timeout: float) -> Any:
    """The deployment's first flow run, once it has ended."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
    from prefect.client.schemas.sorting import FlowRunSort

    chosen = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        with get_client(sync_client=True) as client:
            runs = client.read_flow_runs(deployment_filter=chosen, sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=1)
        if runs and runs[0].state and runs[0].state.is_final():
            return runs[0]
        time.sleep(1.0)
    raise TimeoutError(f"no flow run of {deployment} has ended")


def kill(pid: int) -> None:
    """SIGKILL."""
    os.kill(pid, signal.SIGKILL)
