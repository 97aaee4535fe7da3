"""The parts of the stack with real processes: supervision, orphans, S3 that keeps its objects, user errors."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from flows.cli.command_line import main
from flows.stack.place import Place, State
from flows.stack.processes import Process
from flows.stack.services import Options, choose_ports, free_ports

# A service whose child runs in its own session, like a daemon, and a second service that is tied to the first.
SUPERVISED = """
import sys
from pathlib import Path
from typing import Any
from flows.stack.place import Place
from flows.stack.supervisor import Service, Supervisor
parent = "import subprocess, time; subprocess.Popen(['sleep', '987'], start_new_session=True); time.sleep(987)"
python, folder = sys.executable, Path(sys.argv[1])
place = Place(folder)
place.make()
(folder / "scratch").mkdir()
services = [
    Service("parent", "", "", (python, "-c", parent)),
    Service("tied", "", "", ("sleep", "986"), after=("parent",), tied_to="parent"),
]
say = lambda line: print(line, flush=True)
Supervisor(services, place, str(folder / "scratch"), say).run(lambda: say("ready"))
"""

# A service that answers until a file appears, and then lives on without an answer.
SILENT = """
import sys
from pathlib import Path
from flows.stack import supervisor
from flows.stack.place import Place
from flows.stack.services import free_ports
supervisor.CHECK_SECONDS, supervisor.SILENT_SECONDS = 0.2, 1.5
server = (
    "import http.server, pathlib, sys\\n"
    "class Handler(http.server.BaseHTTPRequestHandler):\\n"
    "    def do_GET(self):\\n"
    "        self.send_response(500 if pathlib.Path(sys.argv[2]).exists() else 200)\\n"
    "        self.end_headers()\\n"
    "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()"
)
folder, (port,) = Path(sys.argv[1]), free_ports(1)
place = Place(folder)
place.make()
command = (sys.executable, "-c", server, str(port), str(folder / "silent"))
services = [supervisor.Service("web", "", "", command, health=(f"http://127.0.0.1:{port}/",))]
say = lambda line: print(line, flush=True)
supervisor.Supervisor(services, place, str(folder / "scratch"), say).run(lambda: say("ready"))
"""


@contextmanager
def supervised(folder: Path) -> Iterator[tuple[subprocess.Popen[str], Place]]:
    child = subprocess.Popen([sys.executable, "-c", SUPERVISED, str(folder)], stdout=subprocess.PIPE, text=True)
    place = Place(folder)
    try:
        state = until(lambda: place.state() if (now := place.state()) and now.ready and len(now.seen) == 3 else None)
        assert state
        yield child, place
    finally:
        main(["down", "--folder", str(folder)])
        child.wait(20)


def until(ask: Callable[[], Any], seconds: float = 20.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := ask():
            return answer
        time.sleep(0.1)
    raise AssertionError("timed out")


def seen(place: Place) -> State:
    state = place.state()
    assert state is not None
    return state


def test_a_dead_service_is_restarted_with_those_tied_to_it_and_leaves_no_orphan(tmp_path: Path):
    with supervised(tmp_path) as (_, place):
        before = seen(place)
        os.kill(before.services["parent"].process.pid, signal.SIGKILL)
        after = until(lambda: now if len((now := seen(place)).seen) == 3 and now.services["tied"].restarts else None)
        assert not [one for one in before.seen if one.alive]
        assert after.services["parent"].restarts == 1
        assert main(["down", "--folder", str(tmp_path)]) == 0
        assert not [one for one in after.seen if one.alive]
        assert place.state() is None
        assert not (tmp_path / "scratch").exists()


def test_a_service_that_lives_on_without_an_answer_is_restarted(tmp_path: Path):
    place = Place(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", SILENT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        before = until(lambda: place.state() if (now := place.state()) and now.ready else None)
        time.sleep(3.0)  # healthy for longer than it may be silent
        assert seen(place).services["web"].restarts == 0
        (tmp_path / "silent").touch()
        until(lambda: seen(place).services["web"].restarts)
        (tmp_path / "silent").unlink()
        assert not before.services["web"].process.alive
    finally:
        child.terminate()
        out, _ = child.communicate(timeout=20)
    assert "web did not answer at http://127.0.0.1:" in out


def test_down_stops_the_processes_of_a_killed_supervisor(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with supervised(tmp_path) as (child, place):
        state = seen(place)
        child.kill()
        child.wait()
        until(lambda: any(one.alive for one in state.seen))  # the daemon has outlived its parent
        assert main(["up", "--folder", str(tmp_path), "--free-ports"]) == 2
        assert "some processes of a dead stack" in capsys.readouterr().err
        assert main(["down", "--folder", str(tmp_path)]) == 0
        assert not [one for one in state.seen if one.alive]


def test_a_reused_process_id_gets_no_signal():
    child = subprocess.Popen(["sleep", "60"])
    now = Process.of(child.pid)
    Process(now.pid, "1").send(signal.SIGKILL)
    assert now.alive
    now.send(signal.SIGKILL)
    child.wait()
    assert not now.alive


def test_a_taken_or_wrong_port_is_named_with_the_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        given = ["up", "--folder", str(tmp_path), "--free-ports", "--port", f"s3={port}"]
        assert main(given) == 2
    assert f"port {port} for s3" in capsys.readouterr().err
    assert main([*given[:-1], "minio=9000"]) == 2
    assert "there is no service minio" in capsys.readouterr().err
    assert main([*given[:-1], "s3=many"]) == 2
    assert "NAME=PORT" in capsys.readouterr().err


def test_each_service_gets_another_free_port(tmp_path: Path):
    chosen = choose_ports(Options(tmp_path, {}, True, None, 100, "demo", ()))
    assert len(set(chosen.values())) == len(chosen)


def test_without_a_stack_env_fails_and_down_succeeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["up", "--env", "--folder", str(tmp_path)]) == 2
    assert "mmface up" in capsys.readouterr().err
    assert main(["down", "--folder", str(tmp_path)]) == 0


@contextmanager
def s3(folder: Path, port: int, key: str) -> Iterator[subprocess.Popen[bytes]]:
    given = ["--port", str(port), "--folder", str(folder), "--bucket", "faces"]
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": key, "PYTHONPATH": os.pathsep.join(sys.path)}
    server = subprocess.Popen([sys.executable, "-m", "flows.stack.s3", *given], env=environment)
    try:
        until(lambda: answers(port))
        yield server
    finally:
        server.kill()
        server.wait()


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def test_objects_are_kept_when_the_s3_server_is_killed(tmp_path: Path):
    (port,) = free_ports(1)

    def client(key: str):
        address = f"http://127.0.0.1:{port}"
        secrets = {"aws_access_key_id": key, "aws_secret_access_key": "s", "region_name": "us-east-1"}
        return boto3.client("s3", endpoint_url=address, **secrets)

    with s3(tmp_path, port, "right"):
        mine = client("right")
        mine.put_object(Bucket="faces", Key="a/b ü.png", Body=b"one", Metadata={"from": "here"})
        mine.put_object(Bucket="faces", Key="gone", Body=b"two")
        mine.put_object(Bucket="faces", Key="l" * 500, Body=b"long")
        mine.copy_object(Bucket="faces", Key="copy", CopySource="faces/gone")
        mine.delete_object(Bucket="faces", Key="gone")
        upload = mine.create_multipart_upload(Bucket="faces", Key="parts")["UploadId"]
        part = {"Bucket": "faces", "Key": "parts", "UploadId": upload}
        etag = mine.upload_part(**part, PartNumber=1, Body=b"p" * 10)["ETag"]
        mine.complete_multipart_upload(**part, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]})
        before = {one["Key"]: one["ETag"] for one in mine.list_objects_v2(Bucket="faces")["Contents"]}
        with pytest.raises(ClientError, match="InvalidAccessKeyId"):
            client("wrong").list_buckets()
    with s3(tmp_path, port, "new"):
        again = client("new")
        listed = {one["Key"]: one["ETag"] for one in again.list_objects_v2(Bucket="faces")["Contents"]}
        assert set(listed) == set(before) == {"a/b ü.png", "l" * 500, "copy", "parts"}
        assert listed["a/b ü.png"] == before["a/b ü.png"]
        found = again.get_object(Bucket="faces", Key="a/b ü.png")
        assert (found["Body"].read(), found["Metadata"]) == (b"one", {"from": "here"})
        assert again.get_object(Bucket="faces", Key="parts")["Body"].read() == b"p" * 10
        with pytest.raises(ClientError, match="PreconditionFailed"):
            again.put_object(Bucket="faces", Key="copy", Body=b"x", IfNoneMatch="*")
