"""Sending events: over HTTP to a real receiver, to a file, and to servers that are down."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flows.lineage import emit
from mmface.errors import StageError
from mmface.store import Store
from tests.lineages import identity, publish_chain
from tests.openlineage_schemas import check_event

Received = list[tuple[str, str, dict[str, Any]]]  # path, authorization, event


@pytest.fixture(autouse=True)
def unconfigured(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variables of OpenLineage; those that its client sets are forgotten after the test."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("OPENLINEAGE")}
    monkeypatch.setattr(os, "environ", others)
    monkeypatch.setattr(emit, "_gave_up", set())


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Received]]:
    """An HTTP server that keeps what it gets; its address."""
    received: Received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            received.append((self.path, self.headers.get("Authorization", ""), event))
            self.send_response(201)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def home(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "home"))


def test_the_run_of_a_stage_is_sent_when_it_ends(
    home: Store, receiver: tuple[str, Received], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, received = receiver
    monkeypatch.setenv(emit.URL, address)
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "secret")
    images = identity("images", {})
    with emit.reported(home, images):
        publish_chain(home)
        assert received == []
    assert {(path, authorization) for path, authorization, _ in received} == {("/api/v1/lineage", "Bearer secret")}
    assert [event["eventType"] for _, _, event in received] == ["START", "COMPLETE"]
    for _, _, event in received:
        check_event(event)
    emit.report_found(home, images)
    assert [event for _, _, event in received[2:]] == [event for _, _, event in received[:2]]


def test_the_flow_run_is_the_parent_of_the_stages_that_it_ran(
    home: Store, receiver: tuple[str, Received], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, received = receiver
    run = "6f1d5f0e-0c5b-4d8e-9f2e-0a4f6f1f2a3b"
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", run)
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__FLOW_NAME", "retrain")
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "faces")
    monkeypatch.setenv(emit.URL, address)
    with emit.reported(home, identity("images", {})):
        publish_chain(home)
    emit.report_found(home, identity("evalset", {}))
    facets = {event["job"]["name"]: event["run"]["facets"] for _, _, event in received}
    assert facets["images"]["parent"]["run"]["runId"] == run
    assert facets["images"]["parent"]["job"] == {"namespace": "faces", "name": "retrain", "facets": {}}
    assert "parent" not in facets["evalset"]  # nobody knows which flow run made it


def test_a_failed_stage_is_sent_and_its_error_raised(
    home: Store, receiver: tuple[str, Received], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, received = receiver
    monkeypatch.setenv(emit.URL, address)
    with pytest.raises(StageError, match="no rows"), emit.reported(home, identity("images", {})):
        raise StageError("no rows", field="images")
    assert [event["eventType"] for _, _, event in received] == ["START", "FAIL"]


def test_a_transport_file_configures_the_client(home: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "events.jsonl"
    config = tmp_path / "openlineage.yml"
    config.write_text(f"transport: {{type: file, log_file_path: {target}, append: true}}")
    monkeypatch.setenv(emit.FILE, str(config))
    publish_chain(home)
    emit.report_found(home, identity("images", {}))
    assert len([check_event(json.loads(line)) for line in target.read_text().splitlines()]) == 2


def test_a_transport_file_that_does_not_exist_is_logged(
    home: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(emit.FILE, "/nowhere/openlineage.yml")
    publish_chain(home)
    emit.report_found(home, identity("images", {}))
    assert "OPENLINEAGE_CONFIG names /nowhere/openlineage.yml, which is no file" in caplog.text


@pytest.mark.parametrize("settings", [{}, {emit.URL: "http://127.0.0.1:9", emit.DISABLED: "true"}])
def test_nothing_is_sent_unless_configured(
    settings: dict[str, str], home: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert not emit.configured()
    emit.report_found(home, identity("images", {}))  # was never published
    assert caplog.messages == []


def test_a_server_that_is_down_fails_no_stage_and_is_logged_once(
    home: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        transport = {"type": "http", "url": f"http://127.0.0.1:{free.getsockname()[1]}", "retry": {"total": 0}}
    monkeypatch.setenv(emit.TRANSPORT, json.dumps(transport))
    publish_chain(home)
    with caplog.at_level(logging.WARNING, "flows.lineage.emit"):
        for _ in range(3):
            with emit.reported(home, identity("images", {})):
                pass
    warnings = [record.getMessage() for record in caplog.records if record.name == "flows.lineage.emit"]
    assert len(warnings) == 1
    assert "are not sent" in warnings[0]
    assert emit.URL in warnings[0]
