"""Testing the new champion over HTTP, against a server that answers like the service."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flows.release import curl_command
from flows.steps import trial
from flows.steps.preflight import KEY, SERVICE, check_key
from flows.steps.trial import ask, try_service
from mmface.config.load import load_recipe
from mmface.errors import CredentialsError, ServiceError
from mmface.store import Store

RECIPE = load_recipe("demo")
PNG = b"\x89PNG"


class Service(ThreadingHTTPServer):
    """Answers with the given statuses in order, repeating the last one; records the requests."""

    statuses: list[int]
    requests: list[tuple[str, str | None, bytes]]


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, self.headers["Authorization"], body))
        status = self.server.statuses.pop(0) if len(self.server.statuses) > 1 else self.server.statuses[0]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(PNG if status == 200 else b"the reason")

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    for name in (SERVICE, KEY, "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(trial, "PAUSE_SECONDS", 0.01)
    with Service(("127.0.0.1", 0), Handler) as server:
        server.requests = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def url(service: Service) -> str:
    return f"http://127.0.0.1:{service.server_port}"


def test_it_waits_until_the_version_is_loaded_and_sends_the_key(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.statuses = [404, 503, 429, 200]
    monkeypatch.setenv(SERVICE, url(service) + "/")
    monkeypatch.setenv(KEY, "secret")
    assert try_service.fn(RECIPE, Store("nowhere"), "7", "a face", b"mask") == PNG
    path, key, body = service.requests[-1]
    assert (path, key) == ("/v1/images/edits", "Bearer secret")
    assert b"mmface-dit:7" in body
    assert len(service.requests) == 4


def test_a_service_at_the_address_of_the_recipe_is_used(service: Service) -> None:
    service.statuses = [200]
    recipe = load_recipe("demo", [f"serve.port={service.server_port}"])
    assert try_service.fn(recipe, Store("nowhere"), "7", "a face", b"mask") == PNG


@pytest.mark.parametrize(
    ("status", "kind", "field"),
    [(401, CredentialsError, KEY), (422, ServiceError, SERVICE), (500, ServiceError, SERVICE)],
)
def test_a_refusal_fails_at_once_and_names_the_variable_at_fault(
    service: Service, status: int, kind: type[ServiceError], field: str
) -> None:
    service.statuses = [status]
    with pytest.raises(ServiceError, match=f"answers {status}: the reason") as caught:
        ask(url(service), RECIPE, "7", "a face", b"mask")
    assert (type(caught.value), caught.value.field) == (kind, field)
    assert len(service.requests) == 1


def test_a_version_that_is_never_loaded_fails(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.statuses = [404]
    monkeypatch.setattr(trial, "SWAP_SECONDS", 0.05)
    with pytest.raises(ServiceError, match="after version 7 got the alias"):
        ask(url(service), RECIPE, "7", "a face", b"mask")


def test_a_missing_key_fails_before_anything_is_computed(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("demo", ["serve.api_keys_env=KEYS"])
    check_key(RECIPE)
    with pytest.raises(CredentialsError) as caught:
        check_key(recipe)
    assert caught.value.field == KEY
    monkeypatch.setenv(
        "RAY_ADDRESS", "http://head:8265"
    )  # on a cluster the service is tested only if its address is set
    check_key(recipe)


def test_the_curl_command_of_the_report(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    command = curl_command(RECIPE, "it's a face", "/home/mask.png")
    assert command.endswith(f"http://{RECIPE.serve.host}:{RECIPE.serve.port}/v1/generate/mask")
    monkeypatch.setenv(SERVICE, "http://service:8000/")
    command = curl_command(load_recipe("demo", ["serve.api_keys_env=KEYS"]), "a face", "s3://home/mask.png")
    assert command.startswith("aws s3 cp s3://home/mask.png mask.png && curl ")
    assert '-H "Authorization: Bearer $MMFACE_API_KEY" -F condition=@mask.png' in command
    assert command.endswith(" http://service:8000/v1/generate/mask")
