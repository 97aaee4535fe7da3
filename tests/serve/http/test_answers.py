"""Answers: picture formats with provenance, negotiation by ``Accept`` and fields, seeds, sizes, fit and warnings."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from serve.pictures.provenance import Provenance, encode
from tests.serve.service import mask_png, pixels, png, sketch_png

MASK, SKETCH = "/v1/generate/mask", "/v1/generate/sketch"
IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
FORMATS = ("png", "webp", "jpeg")


def post(client: TestClient, path: str = MASK, accept: str | None = None, **fields: Any) -> Any:
    drawing = fields.pop("condition", mask_png() if path == MASK else sketch_png())
    headers = {"Accept": accept} if accept else {}
    return client.post(
        path, files={"condition": drawing}, data={"prompt": "a face", "seed": 5} | fields, headers=headers
    )


def attributes(xmp: bytes | str) -> dict[str, str]:
    text = xmp.decode() if isinstance(xmp, bytes) else xmp
    packet = ElementTree.fromstring(text.strip("\ufeff"))  # noqa: S314
    description = packet.find(".//{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    assert description is not None
    return description.attrib


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("how", ["Accept", "field"])
def test_every_format_has_provenance_metadata(client: TestClient, name: str, how: str) -> None:
    fields: dict[str, Any] = {"prompt": "secret words"} | ({"output_format": name} if how == "field" else {})
    answer = post(client, accept="image/*" if how == "field" else f"image/{name}", **fields)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, f"image/{name}")
    assert answer.headers["X-Seed"] == "5"
    assert b"secret" not in answer.content
    image = Image.open(BytesIO(answer.content))
    assert image.format == name.upper()
    assert image.size == (64, 64)
    xmp = attributes(image.info["XML:com.adobe.xmp" if name == "png" else "xmp"])
    assert xmp[f"{{{IPTC}}}DigitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert xmp["{urn:mmface:provenance}seed"] == "5"
    if name != "png":
        exif = image.getexif()
        assert exif[305] == "MMFace"
        assert "generative model" in exif[270]
        comment = exif.get_ifd(0x8769)[0x9286]
        assert comment[:8] == b"ASCII\0\0\0"
        metadata = json.loads(comment[8:])
        assert (metadata["model"], metadata["seed"], metadata["sampler"]) == ("mmface-dit:7", 5, "euler")


def test_model_names_that_need_escaping_survive_in_every_format() -> None:
    provenance = Provenance(1, "r", model='"<é>&:1', version="1")
    for name in FORMATS:
        image = Image.open(BytesIO(encode(np.zeros((8, 8, 3), np.uint8), provenance, name)))  # type: ignore[arg-type]
        xmp = attributes(image.info["XML:com.adobe.xmp" if name == "png" else "xmp"])
        assert xmp["{urn:mmface:provenance}model"] == '"<é>&:1'


def test_json_names_the_format_and_output_compression_sets_the_quality(client: TestClient) -> None:
    sizes = {}
    for quality in (0, 50, 100, None):
        fields = {} if quality is None else {"output_compression": quality}
        body = post(client, output_format="webp", **fields).json()
        assert (body["output_format"], body["size"]) == ("webp", "64x64")
        data = base64.b64decode(body["data"][0]["b64_json"])
        assert Image.open(BytesIO(data)).format == "WEBP"
        sizes[quality] = len(data)
    assert sizes[0] < sizes[50] < sizes[100] == sizes[None]


@pytest.mark.parametrize(
    ("accept", "fields", "status", "param"),
    [
        ("image/png", {"n": 2, "seed": 1}, 400, "n"),
        ("image/webp", {"output_format": "jpeg"}, 400, "output_format"),
        ("image/gif", {}, 406, "Accept"),
        ("application/json;q=0", {}, 406, "Accept"),
        ("image/png;q=much", {}, 400, "Accept"),
        ("image/png", {"stream": "true"}, 406, "Accept"),
        ("text/event-stream", {}, 406, "Accept"),
        (None, {"output_compression": 101}, 422, "output_compression"),
        (None, {"output_format": "webp", "output_compression": 101}, 422, "output_compression"),
        (None, {"output_format": "gif"}, 422, "output_format"),
        (None, {"fit": "squeeze"}, 422, "fit"),
        (None, {"sampler": "magic"}, 422, "sampler"),
        (None, {"partial_images": 2}, 422, "partial_images"),
        (None, {"partial_images": 5, "stream": "true"}, 422, "partial_images"),
        (None, {"stream": "perhaps"}, 422, "stream"),
        (None, {"seed": "1,2"}, 422, "n"),
        (None, {"seed": "1,2", "n": 3}, 422, "n"),
        (None, {"seed": "1,2,", "n": 2}, 422, "seed"),
        (None, {"seed": "1,-2", "n": 2}, 422, "seed"),
        (None, {"seed": f"1,{2**63}", "n": 2}, 422, "seed"),
        (None, {"seed": "1,2,3,4,5,6,7,8,9", "n": 8}, 422, "seed"),
        (None, {"seed": "9" * 5000}, 422, "seed"),
        (None, {"n": "9" * 400}, 422, "n"),
        (None, {"guidance_scale": "1e999"}, 422, "guidance_scale"),
        (None, {"size": "99999x99999"}, 422, "size"),
        (None, {"size": "auto" * 9}, 422, "size"),
        (None, {"x" * 200: "1"}, 422, "x" * 64),
    ],
    ids=lambda value: ",".join(str(key)[:20] for key in value) if isinstance(value, dict) else None,
)
def test_refusals(client: TestClient, accept: str | None, fields: dict[str, Any], status: int, param: str) -> None:
    answer = post(client, accept=accept, **fields)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert len(error["message"]) < 300


def test_accept_weights_decide_between_picture_formats(client: TestClient) -> None:
    best = post(client, accept="image/webp;q=0.2, image/jpeg;q=0.9, application/json;q=0.5")
    assert best.headers["Content-Type"] == "image/jpeg"
    assert post(client, accept="text/html, */*").headers["Content-Type"] == "application/json"


def test_a_list_of_seeds_works_in_both_content_types(client: TestClient) -> None:
    form = post(client, seed="11,3", n=2).json()["data"]
    condition = base64.b64encode(mask_png()).decode()
    body = client.post(MASK, json={"prompt": "a face", "seed": [11, 3], "n": 2, "condition": condition}).json()["data"]
    assert [item["seed"] for item in form] == [item["seed"] for item in body] == [11, 3]
    for one, other in zip(form, body, strict=True):
        np.testing.assert_array_equal(*(pixels(base64.b64decode(item["b64_json"])) for item in (one, other)))
    wrong = client.post(MASK, json={"prompt": "", "seed": "11,3", "n": 2, "condition": condition})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (422, "seed")


def test_duplicate_and_malformed_json_fields_are_refused(client: TestClient) -> None:
    condition = base64.b64encode(mask_png()).decode()
    head = f'{{"prompt": "", "condition": "{condition}", "seed": 1, '
    for body, param in (
        (head + '"seed": 2}', "seed"),
        (head + '"n": NaN}', None),
        (head + '"\\ud800": 1}', None),
        (head + '"negative_prompt": "\\ud800"}', "negative_prompt"),
    ):
        answer = client.post(MASK, content=body.encode(), headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422), answer.text
        assert answer.json()["error"]["param"] == param


def picture(answer: Any) -> np.ndarray[Any, Any]:
    assert answer.status_code == 200, answer.text
    return pixels(base64.b64decode(answer.json()["data"][0]["b64_json"]))


def test_size_auto_is_the_models_default_and_samplers_differ(client: TestClient) -> None:
    base = picture(post(client))
    np.testing.assert_array_equal(picture(post(client, size="auto")), base)
    np.testing.assert_array_equal(picture(post(client, size="64")), base)
    np.testing.assert_array_equal(picture(post(client, sampler="euler")), base)
    assert (picture(post(client, sampler="heun")) != base).any()


@pytest.mark.parametrize("path", [MASK, SKETCH])
def test_fit_changes_the_picture(client: TestClient, path: str) -> None:
    wide = Image.open(BytesIO(mask_png(128) if path == MASK else sketch_png(128))).resize((128, 64))
    pictures = {fit: picture(post(client, path, condition=png(wide), fit=fit)) for fit in ("crop", "pad", "stretch")}
    np.testing.assert_array_equal(picture(post(client, path, condition=png(wide))), pictures["crop"])
    by_hand = picture(post(client, path, condition=png(wide.crop((32, 0, 96, 64)))))
    np.testing.assert_array_equal(by_hand, pictures["crop"])
    assert (pictures["pad"] != pictures["crop"]).any()
    assert (pictures["pad"] != pictures["stretch"]).any()


def test_an_inverted_sketch_is_reported_in_warnings(client: TestClient) -> None:
    dark = Image.eval(Image.open(BytesIO(sketch_png())), lambda grey: 255 - grey)
    warnings = post(client, SKETCH, condition=png(dark)).json()["warnings"]
    assert warnings == ["the sketch is light on dark; it was inverted to dark lines on white paper"]
    answer = post(client, SKETCH, accept="image/png", condition=png(dark))
    assert answer.headers["X-Warnings"] == warnings[0]
    np.testing.assert_array_equal(picture(post(client, SKETCH)), pixels(answer.content))
