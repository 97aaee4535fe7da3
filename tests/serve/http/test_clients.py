"""Peculiarities of HTTP libraries, proxies and OpenAI's clients: each gets the answer that it expects."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from mmface.bundles.bundle import Bundle
from serve.engine.generator import Generator
from serve.http.api import create_app
from tests.serve.service import form, listening, mask_png, part, tiny_recipe

MASK, EDITS = "/v1/generate/mask", "/v1/images/edits"
FORM, JSON = "multipart/form-data; boundary=x", "application/json"
PICTURE = base64.b64encode(mask_png()).decode()
URL = {"image_url": f"data:image/png;base64,{PICTURE}"}
JAVA = "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.fixture(scope="module")
def client(bundle: Bundle) -> Iterator[httpx.Client]:
    settings = tiny_recipe(bundle.recipe.components.model_dump(), max_queued=20).serve
    app = create_app(Generator(bundle, settings), settings)
    with listening(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def edit(client: httpx.Client, tree: dict[str, Any], **headers: str) -> httpx.Response:
    small = {"prompt": "a face", "image": PICTURE, "size": "32", "num_inference_steps": 1} | tree
    sent = {name: value for name, value in small.items() if value is not ...}
    return client.post(EDITS, content=json.dumps(sent), headers={"Content-Type": JSON} | headers)


def kind_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.headers["Content-Type"]


def refused(answer: httpx.Response, status: int, param: str, words: str) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert words in error["message"]


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/v1/models", "/v1/models/mmface-dit", "/", "/docs", "/openapi.json",
             "/playground/app.js", "/playground/example.png", "/v1/models/dall-e-3", "/nowhere"],
)  # fmt: skip
def test_head_equals_get_without_the_body(client: httpx.Client, path: str) -> None:
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    for name in ("Content-Type", "Content-Length"):
        assert head.headers[name] == got.headers[name]
    assert client.get("/healthz").status_code == 200  # on the same connection


def test_head_of_a_post_route_is_405(client: httpx.Client) -> None:
    assert client.head(MASK).status_code == 405


@pytest.mark.parametrize("given", ["a b", "é" * 3, "x" * 129, "a\tb", '"quoted"', "00-abc/def"])
def test_an_invalid_request_id_is_replaced_and_the_new_one_returned(client: httpx.Client, given: str) -> None:
    answer = client.get("/healthz", headers=[(b"X-Request-Id", given.encode("latin-1"))])
    assert answer.status_code == 200
    [made] = answer.headers.get_list("X-Request-Id")
    assert len(made) == 32
    assert made.isalnum()
    assert "X-Request-Id" not in client.get("/healthz", headers={"X-Request-Id": "mine"}).headers


@pytest.mark.parametrize("accept", [JAVA, BROWSER, "*", "", ",", "*/*", "application/*", "image/png, */*;q=0.1"])
def test_openai_routes_answer_json_to_every_client_that_accepts_it(client: httpx.Client, accept: str) -> None:
    assert kind_of(edit(client, {}, Accept=accept)) == JSON


@pytest.mark.parametrize(
    ("accept", "kind"),
    [("image/png", "image/png"), ("image/*", "image/png"), ("image/webp, image/png;q=0.5", "image/webp")],
)
def test_openai_routes_answer_pictures_to_clients_that_accept_only_those(
    client: httpx.Client, accept: str, kind: str
) -> None:
    assert kind_of(edit(client, {}, Accept=accept)) == kind


@pytest.mark.parametrize(
    ("accept", "kind"), [("*", JSON), ("", JSON), (JAVA, "image/jpeg"), ("TEXT/*, IMAGE/PNG", "image/png")]
)
def test_generate_routes_follow_the_weights_of_accept(client: httpx.Client, accept: str, kind: str) -> None:
    body = {"prompt": "", "condition": PICTURE, "num_inference_steps": 1, "size": "32"}
    assert kind_of(client.post(MASK, json=body, headers={"Accept": accept})) == kind
    lines = [("Accept", "text/html"), ("Accept", accept or "*/*")]  # two header lines are one list
    assert kind_of(client.post(MASK, json=body, headers=lines)) == kind


def test_json_null_means_absent(client: httpx.Client) -> None:
    nothing = dict.fromkeys(
        ("negative_prompt", "seed", "n", "fit", "guidance_scale", "sampler", "output_format", "output_compression",
         "response_format", "stream", "partial_images", "model", "modality", "user", "quality", "background", "strange")
    )  # fmt: skip
    answer = edit(client, nothing)
    assert (answer.status_code, len(answer.json()["data"])) == (200, 1)
    refused(edit(client, {"prompt": None}), 422, "prompt", "required")
    refused(edit(client, {"image": None}), 422, "image", "required")
    schema = client.get("/openapi.json").json()["paths"][EDITS]["post"]["requestBody"]["content"][JSON]["schema"]
    nullable = {name for name, field in schema["properties"].items() if {"type": "null"} in field.get("anyOf", [])}
    assert nullable == set(schema["properties"]) - {"image", "prompt"}


@pytest.mark.parametrize(
    "tree",
    [{"n": 1.0}, {"n": 1e0, "seed": 7.0}, {"num_inference_steps": 2.0}, {"size": 32.0}, {"guidance_scale": 2},
     {"seed": [7.0]}, {"partial_images": 0.0}, {"output_compression": 90.0, "output_format": "webp"}],
    ids=str,
)  # fmt: skip
def test_integers_may_be_written_with_a_zero_fraction(client: httpx.Client, tree: dict[str, Any]) -> None:
    answer = edit(client, tree)
    assert answer.status_code == 200, answer.text
    if "seed" in tree:
        assert answer.json()["data"][0]["seed"] == 7


@pytest.mark.parametrize("tree", [{"n": 1.5}, {"seed": 1e300}, {"seed": 2.0**60}, {"n": "1"}, {"n": True}], ids=str)
def test_other_numbers_are_not_accepted_as_integers(client: httpx.Client, tree: dict[str, Any]) -> None:
    assert edit(client, tree).status_code == 422


def test_output_compression_of_png_is_ignored_with_a_warning(client: httpx.Client) -> None:
    body = edit(client, {"output_compression": 100}).json()
    assert body["output_format"] == "png"
    assert any("output_compression" in line for line in body["warnings"])
    one = edit(client, {"output_compression": 50}, Accept="image/png")
    assert one.headers["Content-Type"] == "image/png"
    assert "output_compression" in one.headers["X-Warnings"]


@pytest.mark.parametrize(
    "before", [b"This is a message in MIME format.\r\n", b"\r\n", b"a--x\r\nb\r\n", b"\0" * 5000 + b"\r\n"]
)
@pytest.mark.parametrize("after", [b"", b"and an epilogue\r\n--y--"])
def test_text_around_a_multipart_body_is_skipped(client: httpx.Client, before: bytes, after: bytes) -> None:
    body = before + form(part("prompt", ""), part("size", "32"), part("condition", mask_png(), "m.png")) + after
    answer = client.post(MASK, content=body, headers={"Content-Type": FORM})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "kind",
    [
        'multipart/form-data; boundary="x"',
        'MULTIPART/Form-Data;BOUNDARY="x"; charset=UTF-8',
        "multipart/form-data; charset=utf-8; boundary=x",
    ],
)
def test_multipart_content_types_may_be_spelled_differently(client: httpx.Client, kind: str) -> None:
    body = form(part("prompt", ""), part("size", "32"), part("condition", mask_png(), "m.png"))
    assert client.post(MASK, content=body, headers={"Content-Type": kind}).status_code == 200


def test_json_may_have_a_byte_order_mark_a_charset_and_line_breaks_in_base64(client: httpx.Client) -> None:
    lines = base64.encodebytes(mask_png()).decode()
    body = json.dumps({"prompt": "", "condition": lines, "size": "32"}).encode("utf-8-sig")
    assert (
        client.post(MASK, content=body, headers={"Content-Type": "Application/JSON; Charset=UTF-8"}).status_code == 200
    )


def test_empty_form_fields_count_as_absent(client: httpx.Client) -> None:
    names = (
        "negative_prompt",
        "seed",
        "n",
        "size",
        "guidance_scale",
        "num_inference_steps",
        "stream",
        "model",
        "modality",
    )
    answer = client.post(EDITS, files={"image": ("m.png", mask_png())}, data={"prompt": ""} | dict.fromkeys(names, ""))
    assert (answer.status_code, len(answer.json()["data"])) == (200, 1)
    strange = client.post(EDITS, files={"image": ("m.png", mask_png())}, data={"prompt": "", "strange": ""})
    refused(strange, 422, "strange", "unknown field")


def test_several_pictures_are_refused(client: httpx.Client) -> None:
    pictures = [part("image[]", mask_png(), f"{name}.png") for name in "ab"]
    answer = client.post(EDITS, content=form(part("prompt", ""), *pictures), headers={"Content-Type": FORM})
    refused(answer, 422, "image[]", "send one")
    refused(edit(client, {"image": ..., "images": [URL, URL]}), 422, "images", "send one")
    refused(edit(client, {"image": ..., "images": []}), 422, "images", "send one")
    refused(edit(client, {"images": [URL]}), 422, "images", "send one")


def test_openais_json_and_unused_fields_are_accepted(client: httpx.Client) -> None:
    sent = {
        "image": ...,
        "images": [URL],
        "quality": "high",
        "input_fidelity": "high",
        "safety_identifier": "u",
        "user": "u",
    }
    answer = edit(client, sent)
    assert answer.status_code == 200, answer.text
    assert [line for line in answer.json()["warnings"] if "not used" in line] == [
        "quality is not used here", "input_fidelity is not used here",
    ]  # fmt: skip
    address = {"image_url": "https://example.com/a.png"}
    refused(edit(client, {"image": ..., "images": [address]}), 422, "images", "not fetched")
    refused(edit(client, {"image": ..., "images": [{"file_id": "f"}]}), 422, "images", "base64")
    with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="any", max_retries=0) as official:
        made = official.images.edit(
            image=[("m.png", mask_png())],
            prompt="",
            n=2,
            quality="low",
            output_compression=100,
            extra_body={"seed": [7, 11]},
        )
    assert made.data is not None
    assert [image.seed for image in made.data] == [7, 11]  # type: ignore[attr-defined]


def test_the_number_of_fields_and_list_items_is_bounded_cheaply(client: httpx.Client) -> None:
    many = "".join(f'"f{number}": 1, ' for number in range(12_000))
    started = time.process_time()
    answer = client.post(MASK, content=f'{{{many}"f0": 1}}', headers={"Content-Type": JSON})
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "more than 32 fields")
    refused(edit(client, {"seed": [""] * 30_000, "image": PICTURE}), 422, "seed", "integer")
    assert time.process_time() - started < 2


def test_the_whole_body_of_a_refused_upload_is_read(client: httpx.Client) -> None:
    """nginx sends Connection: close and the whole body before it reads the answer."""
    body = b"x" * 3_000_000
    head = f"POST {MASK} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=30) as proxy:
        proxy.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: proxy.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"too_large"' in answer
