"""However a flow is ended, within half a minute, or with one run of the reaper, nothing of it is left on the cluster.

Four flows on a stack take minutes, so this is for `make faults`.
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
    pytest.mark.skipif("FAULT_MOMENTS" not in os.environ, reason="make faults runs it"),
]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("orphans")
    with stack(folder / "stack") as made, inside(made.environment):
        upload_photographs(16, folder / "photos")
        yield made


@pytest.mark.parametrize("way", WAYS)
def test_nothing_of_a_flow_is_left(up: Stack, way: str):
    given = up.settings(seed=WAYS.index(way), **{"data.min_size": 33 + WAYS.index(way)})  # none is found published
    settings = [part for one in given for part in ("--set", one)]
    if way == "cancelled":
        assert up.mmface("deploy", *settings).returncode == 0
        run = start("retrain/full")
        wait_for(lambda: at_work(up), 300, "a job")
        cancel(run)
    else:
        command = [sys.executable, "-m", "flows.cli", "retrain", *settings]
        flow = subprocess.Popen(command, env=up.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: at_work(up), 300, "a job")
        flow.send_signal(getattr(signal, way))
    if way == "SIGKILL":
        flow.wait()
        assert up.mmface("reap").returncode == 0
    wait_for(lambda: not at_work(up), SECONDS, "the end of its jobs and actors")
    if way != "cancelled":
        flow.wait(60)


def at_work(up: Stack) -> list[str]:
    """Jobs that have not ended, and processes that serve one on the stack's Ray."""
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
    """As the button in Prefect's page does."""
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelling

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run, Cancelling())  # type: ignore[arg-type]
