"""The service on a Ray cluster that runs already, over real HTTP.

Keys reach the ingress and stay hidden, metrics reach Prometheus, a missing model is reported and waited for, slow
uploads are refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from mmface.bundles.bundle import Bundle
from tests.serve.deploy.test_app import register
from tests.serve.service import mask_png, tiny_recipe

ROOT = Path(__file__).parents[3]
KEY = "a-long-random-word"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
KNOWN = {"Authorization": f"Bearer {KEY}"}
SECRET, PASSWORD = "an-s3-secret", "an-mlflow-password"
UPLOAD_S = 4.0
METRICS_S = 90.0  # timeout for Ray to export all metrics


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def process(*command: str, log: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
    environment = kept | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)} | variables
    with log.open("wb") as file:
        running = subprocess.Popen([sys.executable, "-m", *command], env=environment, stdout=file, stderr=file)
        try:
            yield running
        finally:
            running.send_signal(signal.SIGTERM)
            running.wait(60)


def wait_for(url: str, log: Path, status: int = 200, word: str = "") -> httpx.Response:
    end = time.monotonic() + 240
    while time.monotonic() < end:
        try:
            answer = httpx.get(url, timeout=30)
            if answer.status_code == status and word in answer.text:
                return answer
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"{url} does not answer: {log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def cluster(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Addresses of a Ray head without keys, and of a service that another process started on it."""
    root = tmp_path_factory.mktemp("cluster")
    port, gcs, dashboard, metrics = free_ports(4)
    recipe = tiny_recipe(port=port, api_keys_env="TEST_KEYS", upload_timeout_s=UPLOAD_S, follow_s=0.5)
    (root / "recipe.yaml").write_text(recipe.to_yaml())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMFACE_HOME", str(root / "home"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        register(bundle, root / "bundle")
        for artifacts in (root / "home").rglob("transformer"):
            shutil.rmtree(artifacts)
    start = ["ray.scripts.scripts", "start", "--head", "--block", "--num-cpus", "2", "--disable-usage-stats"]
    # Paths of Unix sockets must be short, so Ray's folder cannot be inside pytest's.
    with tempfile.TemporaryDirectory(prefix="ray-") as scratch:
        start += ["--port", str(gcs), "--dashboard-port", str(dashboard), "--metrics-export-port", str(metrics)]
        with process(*start, "--temp-dir", scratch, log=root / "head.log"):
            wait_for(f"http://127.0.0.1:{dashboard}/api/version", root / "head.log")
            command = ["flows.cli", "serve", "--recipe", str(root / "recipe.yaml")]
            variables = {"RAY_ADDRESS": f"127.0.0.1:{gcs}", "MMFACE_HOME": str(root / "home")}
            variables |= {"TEST_KEYS": f"tests:{DIGEST}", "AWS_SECRET_ACCESS_KEY": SECRET}
            variables |= {"MLFLOW_TRACKING_USERNAME": "tests", "MLFLOW_TRACKING_PASSWORD": PASSWORD}
            with process(*command, log=root / "serve.log", **variables):
                wait_for(f"http://127.0.0.1:{port}/healthz", root / "serve.log")
                missing = wait_for(f"http://127.0.0.1:{port}/readyz", root / "serve.log", 503, "serve.alias")
                refused = httpx.get(f"http://127.0.0.1:{port}/v1/models", headers=KNOWN, timeout=60)
                with pytest.MonkeyPatch.context() as patch:
                    patch.setenv("MMFACE_HOME", str(root / "home"))
                    register(bundle, root / "whole", "whole")
                wait_for(f"http://127.0.0.1:{port}/readyz", root / "serve.log")
                yield {
                    "missing": f"{missing.text} {refused.status_code} {refused.text}",
                    "service": f"http://127.0.0.1:{port}",
                    "dashboard": f"http://127.0.0.1:{dashboard}",
                    "metrics": f"http://127.0.0.1:{metrics}/metrics",
                    "logs": scratch,
                }


def paint(cluster: dict[str, str], key: str) -> httpx.Response:
    return httpx.post(
        f"{cluster['service']}/v1/generate/mask",
        files={"condition": mask_png()},
        data={"prompt": "a face"},
        headers={"Authorization": f"Bearer {key}"},
        timeout=60,
    )


def test_the_service_reports_a_missing_model_and_waits_for_one(cluster: dict[str, str]) -> None:
    report = cluster["missing"]
    assert report.count("version 1 cannot be served: ") == 2
    assert " 503 " in report
    assert httpx.get(f"{cluster['service']}/readyz", timeout=60).json()["model"] == "mmface-dit:2"


def test_slow_uploads_are_refused(cluster: dict[str, str]) -> None:
    host, port = cluster["service"].removeprefix("http://").split(":")
    head = f"POST /v1/generate/mask HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {KEY}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    started = time.monotonic()
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection((host, int(port)), timeout=60)) for _ in range(20)]
        for one in slow:
            one.sendall(head.encode())
        for _ in range(4):
            for one in slow:
                one.sendall(b"{")
            assert paint(cluster, KEY).status_code == 200  # slow uploads do not delay others
        answers = [one.recv(10_000).decode() for one in slow]
    assert all(answer.startswith("HTTP/1.1 408") for answer in answers), answers[0]
    assert time.monotonic() - started < 10 * UPLOAD_S


def test_keys_reach_the_ingress_and_stay_hidden(cluster: dict[str, str]) -> None:
    assert paint(cluster, KEY).status_code == 200
    assert paint(cluster, "another").status_code == 401
    shown = [
        httpx.get(f"{cluster['dashboard']}{path}", timeout=60).raise_for_status().text
        for path in ("/api/serve/applications/", "/logical/actors", "/api/v0/actors?detail=true")
    ]
    assert all("Ingress" in text for text in shown)
    logs = [path.read_text(errors="replace") for path in Path(cluster["logs"]).rglob("*") if path.is_file()]
    assert any("/v1/generate/mask" in text for text in logs)
    for secret in (KEY, DIGEST, SECRET, PASSWORD):
        assert not [text for text in (*shown, *logs) if secret in text]


def test_the_dashboard_uses_metrics_that_prometheus_gets(cluster: dict[str, str]) -> None:
    """Metrics have the names of Ray's exporter, with prefix and suffixes, and the tags by which panels sum.

    This service has no canary that decides and measures no drift: ``tests/infra/test_exporter.py`` has their metrics.
    """
    board = json.loads((ROOT / "infra" / "grafana" / "serving.json").read_text(encoding="utf-8"))
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    expressions = [one for one in expressions if not re.search(r"ray_mmface_(canary|drift)_", one)]
    asked = {name for expression in expressions for name in re.findall(r"ray_mmface_\w+", expression)}
    end = time.monotonic() + METRICS_S
    exported: dict[str, set[str]] = {}
    while not asked <= exported.keys() and time.monotonic() < end:
        time.sleep(1)
        assert paint(cluster, KEY).status_code == 200
        text = httpx.get(cluster["metrics"], timeout=10).text
        lines = re.findall(r"^(ray_mmface_\w+)\{(.*)\}", text, re.MULTILINE)
        exported = {name: set(re.findall(r"(\w+)=", tags)) for name, tags in lines}
    assert asked <= exported.keys(), sorted(exported)
    for expression in expressions:
        tags = {tag for by in re.findall(r"by \(([^)]*)\)", expression) for tag in re.split(r",\s*", by)}
        for name in re.findall(r"ray_mmface_\w+", expression):
            assert tags <= exported[name], expression
