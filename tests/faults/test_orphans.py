"""However a flow ends, its jobs and actors are gone within 30 s, or after the reaper if the flow was killed.

Four flows on a stack take minutes, so only `make faults` runs this.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.stack.processes import Family
from tests.stack import Stack, inside, stack, start, upload_photographs, wait_for

WAYS = ("cancelled", "SIGINT", "SIGTERM", "SIGKILL")
SECONDS = 30.0

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif("FAULT_MOMENTS" not in os.environ, reason="run by make faults"),
]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("orphans")
    with stack(folder / "stack") as made, inside(made.environment):
        upload_photographs(16, folder / "photos")
        yield made


@pytest.mark.parametrize("way", WAYS)
def test_an_ended_flow_leaves_no_job_and_no_actor(up: Stack, way: str):
    # Another recipe for each way, so that no dataset is found published.
    given = up.settings(seed=WAYS.index(way), **{"data.min_size": 33 + WAYS.index(way)})
    settings = [part for one in given for part in ("--set", one)]
    if way == "cancelled":
        assert up.mmface("deploy", *settings).returncode == 0
        run = start("retrain/full")
        wait_for(lambda: running(up), 300, "a job")
        cancel(run)
    else:
        command = [sys.executable, "-m", "flows.cli", "retrain", *settings]
        flow = subprocess.Popen(command, env=up.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: running(up), 300, "a job")
        flow.send_signal(getattr(signal, way))
    if way == "SIGKILL":
        flow.wait()
        assert up.mmface("reap").returncode == 0
    wait_for(lambda: not running(up), SECONDS, "the end of its jobs and actors")
    if way != "cancelled":
        flow.wait(60)


def running(up: Stack) -> list[str]:
    """Jobs that still run, and the processes of jobs on the stack's Ray."""
    from flows.cluster.client import Cluster

    jobs = [
        str(job.submission_id) for job in Cluster(up.environment["RAY_ADDRESS"]).jobs() if not job.status.is_terminal()
    ]
    processes = []
    for one in Family().under([up.state()["services"]["ray"]["process"]["pid"]]):
        try:
            command = Path(f"/proc/{one.pid}/cmdline").read_text().replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "ray_jobs." in command or command.startswith(("ray::MapWorker", "ray::RayTrainWorker")):
            processes.append(command)
    return jobs + processes


def cancel(run: object) -> None:
    """Cancels a flow run like the button on Prefect's page."""
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelling

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run, Cancelling())  # type: ignore[arg-type]
