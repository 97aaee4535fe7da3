"""Fixtures of the flows: one Ray head that takes jobs with a token, and homes with registered versions."""

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

from flows.steps.champions import Turn, turn
from flows.steps.line import Run
from mmface.bundles import registry
from mmface.bundles.verdicts import record_decision
from mmface.config.load import load_recipe
from mmface.store import Store, leases
from tests.faults.lab import Driver
from tests.flows.releases import NAME

ROOT = Path(__file__).parents[2]
TOKEN = "0123456789abcdef0123456789abcdef"
START_SECONDS = 180


@dataclass(frozen=True)
class Head:
    """A running cluster."""

    address: str
    token: str = TOKEN


@pytest.fixture(scope="session")
def ray_head() -> Iterator[Head]:
    folder = tempfile.mkdtemp(prefix="head-", dir="/tmp")  # paths of sockets must be short
    log, dashboard = Path(folder) / "head.log", free_port()
    process = start_head(folder, dashboard, log)
    try:
        head = Head(f"http://127.0.0.1:{dashboard}")
        wait_for_nodes(head)
        yield head
    finally:
        started = Driver(process, log)
        started.descendants()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        started.clean()
        shutil.rmtree(folder, ignore_errors=True)


def start_head(folder: str, dashboard: int, log: Path) -> subprocess.Popen[str]:
    """Starts a Ray head whose dashboard listens on the port ``dashboard``."""
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_worker_niceness": "0",  # with Ray's low default priority a test would take minutes
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    environment.pop("RAY_ADDRESS", None)
    options = {
        "port": free_port(),
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": free_port(),
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
    with log.open("w") as sink:
        return subprocess.Popen(command, env=environment, stdout=sink, stderr=sink, start_new_session=True, text=True)


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
    """The head, with ``RAY_ADDRESS`` and ``RAY_AUTH_TOKEN`` set to reach it."""
    monkeypatch.setenv("RAY_ADDRESS", ray_head.address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", ray_head.token)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return ray_head


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def registry_home(migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A home with an empty model registry."""
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MMFACE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(leases, "WAIT_SECONDS", 0.01)
    (tmp_path / "home").mkdir()
    shutil.copy(migrated, tmp_path / "home" / "mlflow.db")
    return Store(tmp_path / "home")


@pytest.fixture
def versions(registry_home: Store, tmp_path: Path) -> list[str]:
    """Two registered versions that the gate passed; there is no champion yet."""
    run = registry.start_run("r")
    made = []
    for text in ("one", "two"):
        (tmp_path / text).mkdir()
        (tmp_path / text / "README.md").write_text(text)  # registering needs files, not a loadable model
        made.append(registry.register_bundle(tmp_path / text, run))
        record_decision(NAME, made[-1], "passed", "passed 2 checks", "{}")
    return made


@pytest.fixture
def run(registry_home: Store) -> Run:
    """A run of the demo recipe that could release a version."""
    recipe = load_recipe("demo")
    registry_home.write("recipe.yaml", recipe.to_yaml().encode())
    return Run(recipe, f"{registry_home.uri}/recipe.yaml", registry_home, None, "")


@pytest.fixture
def mine(registry_home: Store) -> Iterator[Turn]:
    """The lease on the champion."""
    with turn(registry_home, NAME) as held:
        yield held
