"""Malformed requests over real HTTP: each gets the error envelope, and the next request is answered."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from mmface.bundles.bundle import Bundle
from serve.engine.generator import Generator
from serve.http.api import create_app
from tests.serve.service import form, listening, mask_png, part, sketch_png, tiny_recipe

MASK, EDITS = "/v1/generate/mask", "/v1/images/edits"
FORM = "multipart/form-data; boundary=x"
JSON = "application/json"
CONDITION = base64.b64encode(mask_png()).decode()


@pytest.fixture(scope="module")
def client(bundle: Bundle) -> Iterator[httpx.Client]:
    settings = tiny_recipe(max_queued=20, upload_timeout_s=1.0).serve
    app = create_app(Generator(bundle, settings), settings)
    with listening(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def tree(**fields: Any) -> bytes:
    return json.dumps({"prompt": "", "condition": CONDITION} | fields).encode()


WHOLE = (part("prompt", "a face"), part("condition", mask_png(), "m.png"))


def refused(answer: httpx.Response, status: int, param: str | None) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert error["message"]


@pytest.mark.parametrize(
    ("kind", "body", "status", "param"),
    [
        (None, form(*WHOLE), 415, "Content-Type"),
        ("text/plain", form(*WHOLE), 415, "Content-Type"),
        ("application/x-www-form-urlencoded", b"prompt=a", 415, "Content-Type"),
        ("multipart/mixed; boundary=x", form(*WHOLE), 415, "Content-Type"),
        ("image/png", mask_png(), 415, "Content-Type"),
        ("application/jsonp", tree(), 415, "Content-Type"),
        ("multipart/form-data", form(*WHOLE), 400, None),
        ("multipart/form-data; boundary=other", form(*WHOLE), 400, None),
        (f"multipart/form-data; boundary={'b' * 200}", form(*WHOLE), 400, None),
        (FORM, tree(), 400, None),
        (JSON, form(*WHOLE), 400, None),
        (JSON, json.dumps({"prompt": "é"}, ensure_ascii=False).encode("utf-16"), 400, None),
        (JSON, b"", 400, None),
        (FORM, form(*WHOLE, part("prompt", "again")), 400, "prompt"),
        (FORM, form(*WHOLE, part("condition", sketch_png(), "s.png")), 400, "condition"),
        (FORM, form(*WHOLE, part("condition", "text")), 400, "condition"),
        (FORM, form(*WHOLE, part("image", mask_png(), "m.png")), 422, "image"),
        (FORM, form(*WHOLE, *(part(f"f{i}", "") for i in range(40))), 400, None),
        (JSON, b'{"prompt": "a", "prompt": "b"}', 400, "prompt"),
        (JSON, tree(seed=1e400), 400, None),
        (JSON, tree().replace(b"{", b'{"seed": ' + b"9" * 5000 + b", ", 1), 400, None),
        (JSON, tree(seed=10**30), 422, "seed"),
        (JSON, tree(seed=-1), 422, "seed"),
        (JSON, tree(seed=1.5), 422, "seed"),
        (JSON, tree(seed=[]), 422, "seed"),
        (JSON, tree(n=10**18), 422, "n"),
        (JSON, tree(n=1.5), 422, "n"),
        (JSON, tree(num_inference_steps=10**9), 422, "num_inference_steps"),
        (JSON, tree(guidance_scale=1e308), 422, "guidance_scale"),
        (JSON, tree(size=10**12), 422, "size"),
        (JSON, tree(size="0x0"), 422, "size"),
        (JSON, tree(output_compression=-(10**9), output_format="webp"), 422, "output_compression"),
    ],
    ids=range(32),
)
def test_wrong_types_duplicates_and_absurd_numbers(
    client: httpx.Client, kind: str | None, body: bytes, status: int, param: str | None
) -> None:
    refused(client.post(MASK, content=body, headers={"Content-Type": kind} if kind else {}), status, param)


def test_unusual_but_valid_requests_are_served(client: httpx.Client) -> None:
    for kind, body in (
        (FORM, form(*WHOLE)),
        (FORM.replace("=x", '="x"'), form(*WHOLE)),
        ("Multipart/Form-Data; Boundary=x", form(*WHOLE)),
        ("application/json; charset=utf-8", tree(guidance_scale=1e-300)),
        (JSON, tree(seed=2**63 - 1)),
    ):
        answer = client.post(MASK, content=body, headers={"Content-Type": kind})
        assert answer.status_code == 200, (kind, answer.text)


@pytest.mark.parametrize("model", ["dall-e-3", "mmface-dit:999", "mmface-dit:x", "../mmface-dit", " mmface-dit", "é"])
def test_unknown_models(client: httpx.Client, model: str) -> None:
    fields = {"prompt": "", "model": model}
    refused(client.post(EDITS, files={"image": mask_png()}, data=fields), 404, "model")


@pytest.mark.parametrize("path", ["dall-e-3", "mmface-dit:999", "mmface-dit%00", "%F0%9F%98%80", "a" * 3000])
def test_unknown_models_by_path(client: httpx.Client, path: str) -> None:
    refused(client.get(f"/v1/models/{path}"), 404, "model")


def test_a_slow_upload_does_not_delay_other_requests(client: httpx.Client) -> None:
    address = (client.base_url.host, client.base_url.port)
    head = f"POST {MASK} HTTP/1.1\r\nHost: h\r\nContent-Type: {JSON}\r\nContent-Length: 5000\r\n\r\n".encode()
    with socket.create_connection(address, timeout=10) as slow:
        slow.sendall(head + b"{")
        assert client.post(MASK, content=tree(), headers={"Content-Type": JSON}).status_code == 200
        status, _, rest = slow.recv(10_000).partition(b"\r\n")
    assert status.startswith(b"HTTP/1.1 408")
    assert b"slow_upload" in rest


def test_a_body_that_ends_early_does_not_harm_the_service(client: httpx.Client) -> None:
    address = (client.base_url.host, client.base_url.port)
    for length in (b"5000", b"-1", b"1e3", b"99999999999999999999"):
        with socket.create_connection(address, timeout=10) as hasty:
            head = f"POST {MASK} HTTP/1.1\r\nHost: h\r\nContent-Type: {JSON}\r\nContent-Length: ".encode()
            hasty.sendall(head + length + b"\r\n\r\n{")
    assert client.get("/readyz").status_code == 200
