"""The flows in Prefect: parameter forms, failures, hooks and concurrency limits."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Running, exception_to_failed_state
from prefect.utilities.asyncutils import run_coro_as_sync

from flows.cluster.jobs import Job
from flows.maintenance import reap, rollback
from flows.retrain import retrain
from flows.steps.progress import Figures, listening
from flows.steps.tasks import Progress, slot, worth_retrying
from flows.train import train
from mmface import plan
from mmface.bundles import registry
from mmface.config.load import load_recipe
from mmface.errors import RecipeError, StageError, UnreachableError
from mmface.store import Store
from mmface.store.leases import Owner
from tests.flows.conftest import ROOT

pytestmark = pytest.mark.usefixtures("prefect_server")
ENTRYPOINTS = [
    *(f"flows.{name}:{name}" for name in ("prepare", "train", "evaluate", "release", "retrain", "study")),
    *("flows.maintenance:rollback", "flows.maintenance:reap"),
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MMFACE_HOME", str(tmp_path / "home"))
    return Store(tmp_path / "home")


@pytest.mark.parametrize("entrypoint", ENTRYPOINTS)
def test_prefect_loads_every_flow_and_describes_its_parameters(entrypoint: str) -> None:
    found = load_flow_from_entrypoint(entrypoint)
    fields = found.parameters.properties
    assert found.name == entrypoint.rpartition(":")[2]
    assert not found.parameters.required
    if "overrides" in fields:
        assert fields["recipe"]["type"] == "string"
        assert fields["overrides"]["items"]["type"] == "string"
    assert all(field["description"] for field in fields.values())


def test_a_bad_override_fails_the_run_before_anything_is_computed_and_is_named(home: Store) -> None:
    state = retrain(overrides=["phases.0.stepz=1"], return_state=True)
    assert state.is_failed()
    assert "phases.0.stepz" in str(state.message)
    with pytest.raises(RecipeError):
        state.result()
    assert not home.list()


def test_training_without_prepared_data_names_the_flow_to_run_first(home: Store) -> None:
    state = train(return_state=True)
    assert "portraits: it is not published for this recipe" in str(state.message)
    assert "run the flow prepare first" in str(state.message)


def test_only_an_unreachable_service_is_retried() -> None:
    def retried(error: Exception) -> bool:
        return worth_retrying(None, None, run_coro_as_sync(exception_to_failed_state(error)))

    assert retried(UnreachableError("no answer"))
    assert not retried(StageError("over the budget"))
    assert not retried(ValueError("a bug"))


def test_a_stage_holds_a_slot_of_its_concurrency_limit_if_the_limit_exists(home: Store) -> None:
    recipe = load_recipe("demo")
    images, training = (Job(name, plan.portraits(recipe), "", home) for name in ("images", "train"))

    def active() -> int:
        with get_client(sync_client=True) as client:
            return int(client.read_global_concurrency_limit_by_name("mmface-train").active_slots)

    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="mmface-train", limit=1))
    with slot(images):  # its limit does not exist
        assert active() == 0
    with slot(training):
        assert active() == 1
    end = time.monotonic() + 30
    while active() and time.monotonic() < end:  # slots are released in the background
        time.sleep(0.1)
    assert active() == 0


def test_an_unreachable_prefect_at_the_start_of_a_stage_is_worth_a_retry(home: Store) -> None:
    job = Job("images", plan.portraits(load_recipe("demo")), "", home)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}):
        for begin in (lambda: Progress("images"), lambda: slot(job)):
            with pytest.raises(UnreachableError, match="PREFECT_API_URL: Prefect does not answer"):
                begin()


def test_the_progress_of_a_stage_is_reported_from_records_and_from_lines_of_a_cluster() -> None:
    heard: list[tuple[str, object]] = []
    with listening(lambda stage, news: heard.append((stage, news))):
        progress = Progress("text")
        progress.line("20:57:47 text: 1 of 2 parts, 8 rows (part-00000.parquet)")
        progress.line("20:57:48 (MapWorker pid=7) a line without figures")
        carried = {"name": "text", "done": 2, "total": 2, "rows": 16}
        progress.handle(logging.makeLogRecord({"msg": "text: both parts", "progress": carried}))
    assert heard == [("text", Figures("text", 1, 2, 8)), ("text", Figures("text", 2, 2, 16))]


def test_a_failed_run_is_notified_and_a_successful_reaper_run_is_not(
    home: Store, webhook: tuple[str, list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, messages = webhook
    Webhook(url=address).save("pager", overwrite=True)
    monkeypatch.setenv("MMFACE_NOTIFY", "webhook/pager")
    assert retrain(overrides=["seed=-1"], return_state=True).is_failed()
    assert reap(return_state=True).is_completed()  # the reaper notifies only failures
    [message] = messages
    assert message["state"] == "Failed"
    assert message["subject"].startswith("retrain ")
    assert "seed" in message["body"]


def test_the_reaper_marks_a_run_whose_process_is_gone_as_crashed(home: Store) -> None:
    @flow
    def dead() -> None: ...

    with get_client(sync_client=True) as client:
        run = client.create_flow_run(dead, state=Running())
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()
        owner = replace(Owner.this(str(run.id)), pid=process.pid, started="0")
        home.write("leases/images-0/00000000.json", json.dumps(asdict(owner)).encode())
        assert reap() == [f"marked flow run {run.id} as crashed"]
        assert client.read_flow_run(UUID(str(run.id))).state.is_crashed()
        assert reap() == []


def test_the_rollback_flow_restores_the_previous_champion(home: Store, tmp_path: Path) -> None:
    run = registry.start_run("r")
    for text in ("one", "two"):
        (tmp_path / text).mkdir()
        (tmp_path / text / "README.md").write_text(text)
        registry.set_alias("mmface-dit", "champion", registry.register_bundle(tmp_path / text, run))
    assert rollback() == "1"
    assert registry.get_alias("mmface-dit", "champion") == "1"


def test_the_temporary_server_ends_when_its_process_is_killed(tmp_path: Path) -> None:
    code = (
        "import time; from flows.cluster.server import start_temporary_server; start_temporary_server();"
        "from prefect.server.api.server import SubprocessASGIServer;"
        "print(SubprocessASGIServer().server_process.pid, flush=True); time.sleep(600)"
    )
    environment = {
        **{"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        **{"PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180"},
    }
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    server = Path("/proc") / process.stdout.readline().strip()
    assert server.exists()
    process.kill()
    process.wait()
    end = time.monotonic() + 30
    while server.exists():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_an_interrupt_on_the_terminal_ends_the_flow_and_not_its_temporary_server(tmp_path: Path) -> None:
    code = """
import time
from flows.cluster.server import start_temporary_server
start_temporary_server()
from prefect import flow
from prefect.client.orchestration import get_client

@flow
def sleep():
    print("begun", flush=True)
    time.sleep(600)

try:
    sleep()
except KeyboardInterrupt:
    with get_client(sync_client=True) as client:
        print(*(run.state.name for run in client.read_flow_runs()), flush=True)
"""
    environment = {
        **{"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        **{"PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180"},
    }
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    start = time.monotonic()
    assert process.stdout.read() == "Crashed\n"
    assert process.wait(60) == 0
    assert time.monotonic() - start < 60


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[dict[str, str]]]]:
    messages: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook", messages
    server.shutdown()
