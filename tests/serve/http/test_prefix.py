"""The service below a path prefix (a mount, the server's root_path, nginx): it works, and requires keys."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
from starlette._utils import get_route_path
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from mmface.bundles.bundle import Bundle
from serve.engine.generator import Generator
from serve.guards.access import Key
from serve.http.api import create_app
from serve.http.routing import route_path
from tests.serve.service import listening, mask_png, tiny_recipe

NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
ORIGIN = "https://ours.example"
KEY = "a-long-random-word"
KNOWN = {"Authorization": f"Bearer {KEY}"}
MASK = "v1/generate/mask"
ARRANGEMENTS = ("mount", "nginx strips", "nginx strips, the server knows", "nginx keeps")
CONFIG = """
daemon off; master_process off; pid {folder}/pid; error_log stderr;
events {{}}
http {{
  access_log off; client_max_body_size 10m; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  proxy_http_version 1.1; proxy_buffering off; proxy_set_header Host $http_host;
  {servers}
}}
"""


@pytest.fixture(scope="module")
def app(bundle: Bundle) -> ASGIApp:
    settings = tiny_recipe(
        max_queued=20, requests_per_minute=10_000, api_keys_env="UNUSED", cors_origins=[ORIGIN]
    ).serve
    keys = (Key("tests", hashlib.sha256(KEY.encode()).hexdigest()),)
    return create_app(Generator(bundle, settings), settings, keys)


@pytest.fixture(scope="module")
def addresses(app: ASGIApp, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The URL of the service in each arrangement, ending with the prefix and a slash."""
    with ExitStack() as stack:
        plain = stack.enter_context(listening(app))
        knowing = stack.enter_context(listening(app, root_path="/faces"))
        mounted = stack.enter_context(listening(Starlette(routes=[Mount("/faces", app)])))
        found = {"mount": f"{mounted}/faces/"}
        if NGINX is not None:
            upstreams = (f"{plain}/", f"{knowing}/", mounted)
            ports = stack.enter_context(nginx(NGINX, tmp_path_factory.mktemp("nginx"), upstreams))
            found |= zip(ARRANGEMENTS[1:], (f"http://127.0.0.1:{port}/faces/" for port in ports), strict=True)
        yield found


@contextmanager
def nginx(program: str, folder: Path, upstreams: tuple[str, ...]) -> Iterator[list[int]]:
    """Runs nginx; returns one port for each upstream, which gets the requests below ``/faces/``.

    nginx removes the prefix if the upstream's address ends with a slash.
    """
    sockets = [socket.socket() for _ in upstreams]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    servers = "\n  ".join(
        f"server {{ listen 127.0.0.1:{port}; location /faces/ {{ proxy_pass {upstream}; }} }}"
        for port, upstream in zip(ports, upstreams, strict=True)
    )
    (folder / "nginx.conf").write_text(CONFIG.format(folder=folder, servers=servers))
    running = subprocess.Popen([program, "-p", str(folder), "-c", "nginx.conf"], stderr=subprocess.PIPE)
    try:
        until_open(ports, running)
        yield ports
    finally:
        running.terminate()
        running.wait(30)


def until_open(ports: list[int], running: subprocess.Popen[bytes]) -> None:
    for port in ports:
        while True:
            assert running.poll() is None, running.stderr.read() if running.stderr else ""
            try:
                socket.create_connection(("127.0.0.1", port), timeout=10).close()
                break
            except OSError:
                time.sleep(0.02)


@pytest.fixture(params=ARRANGEMENTS)
def client(request: pytest.FixtureRequest, addresses: dict[str, str]) -> Iterator[httpx.Client]:
    if request.param not in addresses:
        pytest.skip("no nginx on PATH; on Debian: apt-get install nginx-light")
    with httpx.Client(base_url=addresses[request.param], timeout=60) as client:
        yield client


def paint(client: httpx.Client, **headers: str) -> httpx.Response:
    data = {"prompt": "a face", "seed": "1", "num_inference_steps": "1", "size": "32"}
    return client.post(MASK, files={"condition": ("m.png", mask_png())}, data=data, headers=KNOWN | headers)


def test_route_path_equals_starlettes() -> None:
    parts = (
        "",
        "/",
        "//",
        "/faces",
        "/faces/",
        "/facesX",
        "faces",
        "/v1",
        "/v",
        "/v1/models",
        "/faces/v1",
        "/faces//v1",
    )
    for path, root_path in product((one + other for one, other in product(parts, parts)), parts):
        scope = {"path": path, "root_path": root_path}
        assert route_path(scope) == get_route_path(scope), scope


def test_every_guarded_route_requires_a_key(client: httpx.Client) -> None:
    document = client.get("openapi.json").raise_for_status().json()
    assert urljoin(str(client.base_url), document["servers"][0]["url"]) == str(client.base_url)
    guarded = [
        (method, path)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if "security" in operation
    ]
    assert len(guarded) == 7
    for method, path in (*guarded, ("head", "/v1/models"), ("options", f"/{MASK}"), ("get", "/nowhere")):
        asked = client.request(method, path.lstrip("/").replace("{model}", "mmface-dit"))
        assert asked.status_code == 401, (method, path)
        assert asked.headers["WWW-Authenticate"] == "Bearer"
    assert client.get("v1/models", headers=KNOWN).json()["data"][0]["id"] == "mmface-dit:7"
    assert client.get("nowhere", headers=KNOWN).status_code == 404


def test_the_page_and_the_documentation_find_their_files(client: httpx.Client) -> None:
    base = str(client.base_url)
    bare = client.get(base.rstrip("/"), follow_redirects=True)
    assert (bare.status_code, str(bare.url)) == (200, base)
    addresses = re.findall(r'(?:src|href)="([^"#]+)"', bare.text)
    modules = re.findall(r'from "([^"]+)"', client.get("playground/app.js").text)
    assert len(addresses) > 4 < len(modules)
    for address in (
        *(urljoin(base, one) for one in addresses),
        *(urljoin(f"{base}playground/", one) for one in modules),
    ):
        assert address.startswith(base)
        for method in ("GET", "HEAD"):
            assert client.request(method, address).status_code == 200, address
    [document] = re.findall(r'"?url"?: "([^"]+)"', client.get("docs").text.replace("'", '"'))
    assert client.get(urljoin(f"{base}docs", document)).json()["info"]["title"] == "MMFace"


def test_idempotency_logs_limits_and_cors_work_below_a_prefix(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "serve.access")
    first, again = (paint(client, **{"Idempotency-Key": f"of-{client.base_url.port}"}) for _ in range(2))
    assert (first.status_code, again.headers["Idempotent-Replayed"]) == (200, "true")
    assert paint(client, Accept="image/png", **{"X-Request-Id": "mine"}).headers["Content-Type"] == "image/png"
    while not (mine := [line for line in access_lines(caplog) if line["request_id"] == "mine"]):
        time.sleep(0.01)  # a request is logged after its answer was sent
    assert [(line["route"], line["key"]) for line in mine] == [(f"/{MASK}", "tests")]
    large = client.post(MASK, content=b"x" * 300_000, headers=KNOWN | {"Content-Type": "application/json"})
    assert (large.status_code, large.json()["error"]["code"]) == (413, "too_large")
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    allowed = client.options(MASK, headers=asked)
    assert (allowed.status_code, allowed.headers["Access-Control-Allow-Origin"]) == (200, ORIGIN)
    assert client.get("v1/models", headers={"Origin": ORIGIN}).headers["Access-Control-Allow-Origin"] == ORIGIN
    unknown = client.get("a%22b", headers=KNOWN).json()["error"]["message"]
    assert unknown == "Not Found: GET /a%22b; see /docs for the routes"


def access_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(record.message) for record in caplog.records if record.name == "serve.access"]


ODD = (
    "//v1/models", "/v1//models", "/v1/models/", "/v1/models//", "/./v1/models", "/playground/../v1/models",
    "/playground/app.js/../../v1/models", "/healthz/", "/healthz/../v1/models", "/healthz;/v1/models", "/V1/models",
    "/openapi.json/v1/models", "/readyz\n", "/docs/v1/models", "/\0", "/v1/models\n", "/playground/", "/playground",
)  # fmt: skip


@pytest.mark.parametrize("root_path", ["", "/faces", "/faces/", "/v", "/v1", "/v1/", "/"])
def test_no_spelling_of_a_path_bypasses_the_guard(app: ASGIApp, root_path: str) -> None:
    """Without a key, every path that is not exactly a public one is refused."""
    paths = [
        prefix + path for prefix in dict.fromkeys(("", root_path, f"{root_path}X")) for path in (*ODD, "/v1/models")
    ]
    for path, method in product(paths, ("GET", "HEAD", "POST", "OPTIONS", "get")):
        first = asyncio.run(answered(app, {"type": "http", "method": method, "path": path, "root_path": root_path}))
        assert first["status"] == 401, (path, method)


def test_websockets_require_a_key(app: ASGIApp) -> None:
    first = asyncio.run(answered(app, {"type": "websocket", "path": "/v1/models"}))
    assert (first["type"], first["code"]) == ("websocket.close", 1008)


async def answered(app: ASGIApp, scope: dict[str, Any]) -> dict[str, Any]:
    """The first message of the application's answer to an ASGI scope."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect" if scope["type"] == "websocket" else "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = scope["path"].encode()
    await app({"headers": [], "query_string": b"", "raw_path": raw, "scheme": "http", **scope}, receive, send)
    first: dict[str, Any] = sent[0]
    return first
