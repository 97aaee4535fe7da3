"""The routes with a real (tiny) model: answers and errors."""

from __future__ import annotations

import base64
import zlib
from io import BytesIO
from struct import pack
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests.serve.service import mask_png, pixels, png, sketch_png

MASK = "/v1/generate/mask"
IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
ENVELOPE = {"message", "type", "param", "code"}


def post(client: TestClient, path: str = MASK, *, condition: bytes | None = None, **fields: Any) -> Any:
    drawing = mask_png() if condition is None else condition
    fields = {"prompt": "a face", "seed": 5} | fields
    return client.post(path, files={"condition": ("drawing.png", drawing)}, data=fields)


def generated(response: Any) -> list[tuple[np.ndarray[Any, Any], int]]:
    assert response.status_code == 200, response.text
    return [(pixels(base64.b64decode(item["b64_json"])), item["seed"]) for item in response.json()["data"]]


def test_health_readiness_and_models(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    ready = client.get("/readyz")
    assert ready.json() | {"completed": 0, "cancelled": 0} == {
        "status": "ready", "model": "mmface-dit:7", "running": False, "queued": 0, "completed": 0, "cancelled": 0,
    }  # fmt: skip
    assert ready.headers["X-Model-Version"] == "7"
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["default_size"], model["min_size"], model["size_multiple"]) == (
        "mmface-dit:7", "64x64", 32, 8,
    )  # fmt: skip


def test_json_and_multipart_agree_and_name_the_model(client: TestClient) -> None:
    multipart = post(client, seed=5)
    body = {"prompt": "a face", "seed": 5, "condition": base64.b64encode(mask_png()).decode()}
    json = client.post(MASK, json=body)
    url = client.post(MASK, json=body | {"condition": "data:image/png;base64," + body["condition"]})
    assert multipart.json()["model"] == json.json()["model"] == "mmface-dit:7"
    assert json.headers["X-Model-Version"] == "7"
    (first, seed), (second, _), (third, _) = generated(multipart)[0], generated(json)[0], generated(url)[0]
    assert seed == 5
    assert first.shape == (64, 64, 3)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, third)


def test_a_batch_equals_single_calls_and_seeds_differ(client: TestClient) -> None:
    batch = generated(post(client, seed=11, n=3))
    singles = [generated(post(client, seed=seed))[0] for seed in (11, 12, 13)]
    assert [seed for _, seed in batch] == [11, 12, 13]
    for (image, _), (single, _) in zip(batch, singles, strict=True):
        np.testing.assert_array_equal(image, single)
    assert np.abs(batch[0][0].astype(int) - batch[1][0]).max() > 10


def test_every_input_changes_the_picture(client: TestClient) -> None:
    base = generated(post(client))[0][0]
    for other in (
        post(client, prompt="another"),
        post(client, negative_prompt="hat"),
        post(client, guidance_scale=7),
        post(client, num_inference_steps=4),
        post(client, condition=png(Image.new("L", (64, 64), 13))),
        post(client, "/v1/generate/sketch", condition=sketch_png()),
    ):
        assert (generated(other)[0][0] != base).any()


def test_palette_index_and_rgb_masks_give_the_same_picture(client: TestClient) -> None:
    palette = Image.open(BytesIO(mask_png()))
    index = Image.fromarray(np.asarray(palette))
    expected = generated(post(client))[0][0]
    for variant in (index, palette.convert("RGB")):
        np.testing.assert_array_equal(generated(post(client, condition=png(variant)))[0][0], expected)


def test_a_png_answer_has_provenance_metadata(client: TestClient) -> None:
    headers = {"Accept": "image/png", "X-Request-Id": "req-1"}
    files = {"condition": ("m.png", mask_png())}
    answer = client.post(MASK, files=files, data={"prompt": "secret words", "seed": "3", "size": "32"}, headers=headers)
    assert (answer.status_code, answer.headers["Content-Type"], answer.headers["X-Seed"]) == (200, "image/png", "3")
    image = Image.open(BytesIO(answer.content))
    image.load()
    assert image.size == (32, 32)
    assert image.info["mmface:model"] == "mmface-dit:7"
    assert image.info["mmface:seed"] == "3"
    assert image.info["mmface:request_id"] == "req-1"
    assert image.info["DigitalSourceType"].endswith("/trainedAlgorithmicMedia")
    packet = ElementTree.fromstring(image.info["XML:com.adobe.xmp"].strip("\ufeff"))  # noqa: S314
    description = packet.find(".//{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    assert description is not None
    assert description.attrib[f"{{{IPTC}}}DigitalSourceType"] == image.info["DigitalSourceType"]
    assert b"secret" not in answer.content


def test_without_a_seed_a_random_one_is_used_and_reported(client: TestClient) -> None:
    seeds = set()
    for _ in range(3):
        answer = client.post(MASK, files={"condition": ("m.png", mask_png())}, data={"prompt": "a face"})
        (image, seed), *_ = generated(answer)
        np.testing.assert_array_equal(generated(post(client, seed=seed))[0][0], image)
        seeds.add(seed)
    assert len(seeds) == 3


def test_a_long_prompt_is_truncated_with_a_warning_and_an_empty_one_is_valid(client: TestClient) -> None:
    long = post(client, prompt="word " * 40).json()
    assert long["warnings"][0].startswith("prompt: ")
    assert post(client, prompt="").json()["warnings"] == []


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header declares ``width x height`` but whose data are a few zero bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data))

    header = pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


UNKNOWN_COLOURS = png(Image.new("RGB", (64, 64), (1, 2, 3)))


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"n": 0}, 422, "n"),
        ({"n": 9}, 422, "n"),
        ({"n": "two"}, 422, "n"),
        ({"num_inference_steps": -1}, 422, "num_inference_steps"),
        ({"num_inference_steps": 1001}, 422, "num_inference_steps"),
        ({"guidance_scale": "nan"}, 422, "guidance_scale"),
        ({"guidance_scale": -1}, 422, "guidance_scale"),
        ({"drawing_guidance_scale": -1}, 422, "drawing_guidance_scale"),
        ({"guidance_end": 1.1}, 422, "guidance_end"),
        ({"guidance_start": 0.6, "guidance_end": 0.4}, 422, "guidance_start"),
        ({"seed": -1}, 422, "seed"),
        ({"seed": 2**63}, 422, "seed"),
        ({"seed": 2**63 - 1, "n": 2}, 422, "n"),
        ({"size": "63x64"}, 422, "size"),
        ({"size": "128"}, 422, "size"),
        ({"size": "16"}, 422, "size"),
        ({"size": "-64"}, 422, "size"),
        ({"size": "huge"}, 422, "size"),
        ({"prompt": "a\x07b"}, 422, "prompt"),
        ({"negative_prompt": "a\x00b"}, 422, "negative_prompt"),
        ({"prompt": "x" * 10_001}, 422, "prompt"),
        ({"prompt": b"caf\xe9"}, 400, "prompt"),
        ({"response_format": "url"}, 422, "response_format"),
        ({"colour": "red"}, 422, "colour"),
        ({"seed": ["1", "2"]}, 400, "seed"),
        ({"condition": b""}, 400, "condition"),
        ({"condition": b"not an image"}, 400, "condition"),
        ({"condition": mask_png()[:60]}, 400, "condition"),
        ({"condition": bomb(10_000, 5_000)}, 400, "condition"),
        ({"condition": bomb(200_000, 200_000)}, 400, "condition"),
        ({"condition": UNKNOWN_COLOURS}, 422, "condition"),
        ({"condition": png(Image.new("L", (64, 64), 19))}, 422, "condition"),
        ({"condition": png(Image.new("RGBA", (64, 64)))}, 422, "condition"),
        ({"condition": png(Image.new("I;16", (64, 64)))}, 422, "condition"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_refusals(client: TestClient, fields: dict[str, Any], status: int, param: str | None) -> None:
    response = post(client, **fields)
    assert_refused(response, status, param)


def assert_refused(response: Any, status: int, param: str | None) -> None:
    assert response.status_code == status, response.text
    (error,) = response.json().values()
    assert set(error) == ENVELOPE
    assert error["param"] == param
    assert error["message"]
    assert "\n" not in error["message"]
    assert error["code"]
    assert error["type"]


def test_malformed_requests_are_refused(client: TestClient) -> None:
    json = {"Content-Type": "application/json"}
    good = {"prompt": "", "condition": base64.b64encode(mask_png()).decode()}
    assert_refused(client.get("/nowhere"), 404, None)
    assert_refused(client.get(MASK), 405, None)
    assert client.get(MASK).headers["Allow"] == "POST"
    assert_refused(client.post(MASK, content=b"x", headers={"Content-Type": "text/plain"}), 415, "Content-Type")
    assert_refused(client.post(MASK), 415, "Content-Type")
    assert_refused(client.post(MASK, content=b"{", headers=json), 400, None)
    assert_refused(client.post(MASK, content=b'{"prompt": "\xff"}', headers=json), 400, None)
    assert_refused(client.post(MASK, content=b"[" * 100_000, headers=json), 400, None)
    assert_refused(client.post(MASK, json=[1]), 400, None)
    assert_refused(client.post(MASK, json={"prompt": ""}), 422, "condition")
    assert_refused(client.post(MASK, json=good | {"condition": "%%%"}), 400, "condition")
    assert_refused(client.post(MASK, json=good | {"n": "1"}), 422, "n")
    assert_refused(client.post(MASK, json=good | {"n": True}), 422, "n")
    assert_refused(client.post(MASK, json={"condition": good["condition"]}), 422, "prompt")
    assert_refused(client.post(MASK, json=good | {"n": 2}, headers={"Accept": "image/png"}), 400, "n")
    assert_refused(client.post(MASK, json=good, headers={"Accept": "text/html"}), 406, "Accept")
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    assert_refused(client.post(MASK, content=b"--x\r\nnonsense", headers=broken), 400, None)
    assert_refused(client.post(MASK, content=b"", headers={"Content-Type": "multipart/form-data"}), 400, None)


def test_uploads_are_bounded_by_length_and_by_stream(client: TestClient) -> None:
    assert_refused(post(client, condition=b"x" * 300_000), 413, None)
    chunks = (b"x" * 50_000 for _ in range(100))
    answer = client.post(MASK, content=chunks, headers={"Content-Type": "application/json"})
    assert_refused(answer, 413, None)


def test_openapi_documents_bodies_and_errors(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    operation = document["paths"][MASK]["post"]
    for schema in (content["schema"] for content in operation["requestBody"]["content"].values()):
        assert {"condition", "prompt", "seed", "n", "size"} <= set(schema["properties"])
        assert schema["required"] == ["condition", "prompt"]
    assert set(operation["responses"]) == {"200", "400", "401", "406", "408", "413", "415", "422", "429", "500", "503"}
    assert set(operation["responses"]["200"]["content"]) == {
        "application/json", "image/png", "image/webp", "image/jpeg", "text/event-stream",
    }  # fmt: skip
    assert client.get("/docs").status_code == 200
