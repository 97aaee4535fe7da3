"""API keys, rate limits, origins, idempotency keys, slow uploads and the access log."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import sys
from typing import Any

import httpx
import pytest

from mmface.bundles.bundle import Bundle
from mmface.errors import ServiceError
from serve.engine.generator import Generator
from serve.guards.access import Bucket
from serve.http.api import create_app
from tests.serve.service import mask_png, tiny_recipe

MASK = "/v1/generate/mask"
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def client_of(bundle: Bundle, **serve: Any) -> httpx.AsyncClient:
    settings = tiny_recipe(**serve).serve
    app = create_app(Generator(bundle, settings), settings)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def paint(client: httpx.AsyncClient, *, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    data = {"prompt": "a face", "seed": "1"} | fields
    return await client.post(MASK, files={"condition": ("m.png", mask_png())}, data=data, headers=headers)


async def test_keys_guard_the_api_and_nothing_else(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYS", f"one:{digest('first')}, two:{digest('second')}")
    async with client_of(bundle, api_keys_env="KEYS") as client:
        assert (await client.get("/healthz")).status_code == 200
        missing, wrong = await paint(client), await paint(client, headers={"Authorization": "Bearer third"})
        assert (missing.status_code, missing.json()["error"]["code"]) == (401, "missing_api_key")
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "invalid_api_key")
        for key in ("first", "second"):
            assert (await paint(client, headers={"Authorization": f"Bearer {key}"})).status_code == 200


@pytest.mark.parametrize("value", [None, "", "nokey", "one:123", f"one:{'a' * 64},one:{'b' * 64}"])
async def test_the_service_does_not_start_without_its_keys(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is not None:
        monkeypatch.setenv("KEYS", value)
    with pytest.raises(ServiceError, match="NAME:SHA256"):
        client_of(bundle, api_keys_env="KEYS")


async def test_each_key_has_its_own_rate_limit(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYS", f"one:{digest('first')},two:{digest('second')}")
    async with client_of(bundle, api_keys_env="KEYS", requests_per_minute=2) as client:
        first, second = ({"Authorization": f"Bearer {key}"} for key in ("first", "second"))
        statuses = [(await client.get("/v1/models", headers=first)).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        assert (await client.get("/v1/models", headers=second)).status_code == 200


def test_a_bucket_refills() -> None:
    bucket = Bucket(60)
    start = bucket._at
    assert [bucket.take(start) for _ in range(60)] == [0.0] * 60
    assert bucket.take(start) == pytest.approx(1.0)
    assert bucket.take(start + 1.01) == 0.0


async def test_only_configured_origins_are_allowed(bundle: Bundle) -> None:
    asked = {"Origin": "https://ours.example"}
    async with client_of(bundle) as client:
        assert "Access-Control-Allow-Origin" not in (await client.get("/v1/models", headers=asked)).headers
    async with client_of(bundle, cors_origins=["https://ours.example"]) as client:
        answer = await client.get("/v1/models", headers=asked)
        assert answer.headers["Access-Control-Allow-Origin"] == "https://ours.example"
        other = await client.get("/v1/models", headers={"Origin": "https://other.example"})
        assert "Access-Control-Allow-Origin" not in other.headers


async def test_retries_with_an_idempotency_key_get_the_first_answer(bundle: Bundle) -> None:
    async with client_of(bundle) as client:
        repeated = {"Idempotency-Key": "k1"}
        answers = await asyncio.gather(*(paint(client, headers=repeated, num_inference_steps="8") for _ in range(3)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1  # all pictures have the first request's id
        assert [answer.headers.get("Idempotent-Replayed") for answer in answers].count("true") == 2
        other = await paint(client, headers=repeated, num_inference_steps="4")
        assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
        wrong = await paint(client, headers={"Idempotency-Key": "k2"}, n="0")
        again = await paint(client, headers={"Idempotency-Key": "k2"})
        assert (wrong.status_code, again.status_code) == (422, 200)  # errors are not stored


@pytest.mark.parametrize("prompts", [False, True])
async def test_the_access_log_has_one_line_of_json_per_request(
    bundle: Bundle, caplog: pytest.LogCaptureFixture, prompts: bool
) -> None:
    caplog.set_level(logging.INFO, "serve.access")
    async with client_of(bundle, log_prompts=prompts) as client:
        await paint(client, headers={"X-Request-Id": "mine"}, prompt="a secret wish")
    [line] = [json.loads(record.message) for record in caplog.records if record.name == "serve.access"]
    assert (line["method"], line["route"], line["status"], line["request_id"]) == ("POST", MASK, 200, "mine")
    assert line["model_version"] == "7"
    assert line["seconds"] > 0
    assert ("a secret wish" in json.dumps(line)) is prompts


async def test_the_access_log_prints_each_line_once_beside_the_handler_of_the_command_line(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    access, parent = logging.getLogger("serve.access"), logging.getLogger("serve")
    monkeypatch.setattr(access, "handlers", [])
    monkeypatch.setattr(access, "propagate", True)
    monkeypatch.setattr(parent, "handlers", [logging.StreamHandler(sys.stderr)])  # as flows.cli.command_line adds it
    monkeypatch.setattr(parent, "level", logging.INFO)
    async with client_of(bundle) as client:
        assert (await client.get("/healthz")).status_code == 200
    printed = capsys.readouterr()
    assert json.loads(printed.out)["route"] == "/healthz"
    assert "/healthz" not in printed.err


async def test_a_slow_upload_is_refused(bundle: Bundle) -> None:
    async def trickle() -> Any:
        while True:
            yield b"x"
            await asyncio.sleep(0.05)

    async with client_of(bundle, upload_timeout_s=0.3) as client:
        answer = await client.post(MASK, content=trickle(), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (408, "slow_upload")
