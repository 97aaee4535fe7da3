"""What is refused before anything starts: clocks, credentials, disks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flows import preflight
from flows.cli import main
from mmface.errors import ServiceError, UnreachableError
from mmface.recipes import load_recipe
from mmface.storage import HOME_VARIABLE

EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "PREFECT_API_URL", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))


@pytest.fixture
def serving() -> Iterator[Callable[[int, bytes, float], str]]:
    """A server that always answers alike, with its clock ahead by some seconds."""
    servers = []

    def start(status: int, body: bytes, ahead: float) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_PUT = do_GET

            def date_time_string(self, timestamp: float | None = None) -> str:
                import time

                return formatdate(time.time() + ahead, usegmt=True)

            def log_message(self, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()


def test_a_wrong_clock_is_refused_with_its_remedy(
    serving: Callable[[int, bytes, float], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", serving(200, b"OK", 30.0))
    preflight.check(load_recipe("demo"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", serving(200, b"OK", 1000.0))
    with pytest.raises(ServiceError, match=r"MLFLOW_TRACKING_URI: this machine's clock is \d+ s behind .* \(NTP\)"):
        preflight.check(load_recipe("demo"))


def test_expired_credentials_are_refused_and_not_tried_again(
    serving: Callable[[int, bytes, float], str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", serving(400, EXPIRED, 0.0))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "old")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "old")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv(HOME_VARIABLE, "s3://faces/home")
    with pytest.raises(ServiceError, match="ExpiredToken; renew the credentials") as caught:
        preflight.check(load_recipe("demo"))
    assert not isinstance(caught.value, UnreachableError)
    assert main(["retrain"]) == 2
    assert "mmface: error: MMFACE_HOME: " in capsys.readouterr().err


def test_a_full_disk_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "LEAST_GIB", 1e9)
    with pytest.raises(ServiceError, match=r"MMFACE_HOME: .* GiB left; make room \(mmface datasets gc\)"):
        preflight.check(load_recipe("demo"))


def test_on_a_cluster_needs_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["retrain", "--on", "cluster"]) == 2
    assert "mmface: error: RAY_ADDRESS: set it to the dashboard" in capsys.readouterr().err
    assert main(["jobs", "list"]) == 2
    assert "mmface: error: RAY_ADDRESS: " in capsys.readouterr().err
