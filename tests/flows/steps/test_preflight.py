"""Checks before anything starts: clocks, credentials, disks, and folders that Ray or MLflow cannot use."""

from __future__ import annotations

import errno
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from flows.cli.command_line import main
from flows.cli.operations import doctor
from flows.steps import preflight
from mmface.bundles.tracking import tracking_uri
from mmface.config.load import load_recipe
from mmface.errors import CredentialsError, ServiceError, StoreFullError, UnreachableError
from mmface.store import HOME_VARIABLE, reach

EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "PREFECT_API_URL", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))


@pytest.fixture
def serving() -> Iterator[Callable[[int, bytes, float], str]]:
    """Starts servers that always send the same answer, with a clock that is ahead by some seconds."""
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


def test_a_wrong_clock_is_refused_with_the_fix(
    serving: Callable[[int, bytes, float], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", serving(200, b"OK", 30.0))
    preflight.check(load_recipe("demo"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", serving(200, b"OK", 1000.0))
    with pytest.raises(ServiceError, match=r"MLFLOW_TRACKING_URI: this machine's clock is \d+ s behind .* \(NTP\)"):
        preflight.check(load_recipe("demo"))


def test_expired_credentials_are_refused_and_not_retried(
    serving: Callable[[int, bytes, float], str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", serving(400, EXPIRED, 0.0))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "old")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "old")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv(HOME_VARIABLE, "s3://faces/home")
    with pytest.raises(CredentialsError, match="ExpiredToken; renew the credentials") as caught:
        preflight.check(load_recipe("demo"))
    assert not isinstance(caught.value, UnreachableError)
    assert main(["retrain"]) == 2
    assert "mmface: error: MMFACE_HOME: " in capsys.readouterr().err


def test_a_full_disk_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "LEAST_GIB", 1e9)
    with pytest.raises(StoreFullError, match=r"MMFACE_HOME: .* GiB left; make room \(mmface datasets gc\)"):
        preflight.check(load_recipe("demo"))


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    """The line by which ``mmface retrain`` refuses to start."""
    assert main(["retrain"]) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_ray_address_auto_without_a_running_ray_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reach, "PROCESSES", tmp_path)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    message = "RAY_ADDRESS: no Ray was started on this machine for RAY_ADDRESS=auto to find; start it, or unset"
    assert message in refused(capsys)
    # `ray start` was killed: nothing answers at the address that it wrote.
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    assert message in refused(capsys)
    with pytest.raises(UnreachableError, match="RAY_ADDRESS=auto"):
        reach.ray_address()
    with socket.create_server(("127.0.0.1", 0)) as head:
        (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{head.getsockname()[1]}")
        assert reach.ray_address() == "auto"
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cmdline").write_bytes(b"/site-packages/ray/core/src/ray/raylet/raylet\0--gcs-address=h:1\0")
    assert reach.ray_address() == "auto"


def test_a_temporary_folder_whose_path_is_too_long_for_sockets_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    longest = reach.SOCKET_BYTES - len(f"/ray/{reach.RAY_SOCKET}")
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/" + "é" * ((longest + 1) // 2))
    assert re.search(r"TMPDIR: /é+/ray is [12] bytes too long for the sockets of Ray; set RAY_TMPDIR", refused(capsys))
    assert [one.remedy for one in doctor._sockets()] == ["set RAY_TMPDIR to a short path, such as /tmp"]
    monkeypatch.setenv("RAY_TMPDIR", "/" + "x" * (longest - 1))
    assert reach.ray_address() is None


@pytest.mark.usefixtures("ray_session")
def test_ray_puts_its_sockets_where_the_check_expects_them() -> None:
    import ray

    sockets = Path(ray._private.worker._global_node.plasma_store_socket_name)
    assert sockets.parents[2] == reach.ray_folder()
    pattern = re.sub(r"\\d\+?", "[0-9]", re.sub(r"[0-9]", "[0-9]", reach.RAY_SOCKET))
    process = str(os.getpid())
    assert re.fullmatch(pattern.replace("[0-9]" * 7, process), str(sockets.relative_to(reach.ray_folder())))


def test_a_home_whose_path_sqlite_would_cut_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "faces?"))
    assert "MMFACE_HOME: " in (line := refused(capsys))
    assert "contains '?', which the address of MLflow's SQLite cannot hold" in line
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    preflight.probe_home()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    for name in ("a b", "a#b", "a%20b", "a;b&c=d"):
        monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / name))
        preflight.probe_home()
        assert make_url(tracking_uri()).database == str(tmp_path / name / "mlflow.db")


def test_a_file_system_without_hard_links_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")  # as vfat and exfat do

    monkeypatch.setattr(os, "link", refuse)
    line = refused(capsys)
    assert "MMFACE_HOME: the file system of " in line
    assert "has no hard links, which concurrent writes need; choose a folder on ext4" in line
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert doctor._home().remedy


def test_a_home_directory_that_is_not_writable_is_refused_when_mmface_home_is_remote(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, f"{s3_bucket}/home")
    monkeypatch.setenv("HOME", "/proc")
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    assert "HOME: /proc cannot be written and MMFACE_HOME is not a local folder; set PREFECT_HOME" in refused(capsys)


def test_cluster_commands_without_a_cluster_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["retrain", "--on", "cluster"]) == 2
    assert "mmface: error: RAY_ADDRESS: set it to the dashboard" in capsys.readouterr().err
    assert main(["jobs", "list"]) == 2
    assert "mmface: error: RAY_ADDRESS: " in capsys.readouterr().err
