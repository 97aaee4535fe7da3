"""One Ray head with its dashboard, as a cluster that takes jobs with a token, for the whole session."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.faults.lab import Driver

ROOT = Path(__file__).parents[2]
TOKEN = "0123456789abcdef0123456789abcdef"
START_SECONDS = 180


@dataclass(frozen=True)
class Head:
    """A cluster that runs."""

    address: str
    token: str = TOKEN


@pytest.fixture(scope="session")
def ray_head() -> Iterator[Head]:
    folder = tempfile.mkdtemp(prefix="head-", dir="/tmp")  # sockets want short names
    port, dashboard, agent = (free_port() for _ in range(3))
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_worker_niceness": "0",  # behind everything else on the machine a test would take minutes
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    environment.pop("RAY_ADDRESS", None)
    options = {
        "port": port,
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": agent,
        "dashboard-host": "127.0.0.1",
        "include-dashboard": "true",
        "temp-dir": folder,
        "num-cpus": 2,
        "object-store-memory": 200_000_000,
        "min-worker-port": 0,
        "max-worker-port": 0,
    }
    command = [*("ray", "start", "--head", "--block", "--disable-usage-stats")]
    command += [f"--{name}={value}" for name, value in options.items()]
    with (Path(folder) / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        head = Head(f"http://127.0.0.1:{dashboard}")
        wait_for_nodes(head)
        yield head
    finally:
        started = Driver(process, Path(folder) / "head.log")
        started.descendants()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        started.clean()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_nodes(head: Head) -> None:
    headers = {"Authorization": f"Bearer {head.token}"}
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        try:
            answer = httpx.get(f"{head.address}/api/v0/nodes", headers=headers, timeout=5)
            if answer.status_code == 200 and answer.json()["data"]["result"]["total"]:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise AssertionError("the Ray head did not start")


@pytest.fixture
def cluster(ray_head: Head, monkeypatch: pytest.MonkeyPatch) -> Head:
    """The head, with the environment set to reach it."""
    monkeypatch.setenv("RAY_ADDRESS", ray_head.address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", ray_head.token)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return ray_head


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
