"""The official OpenAI client works with the service: pictures, streams, models, errors and rate limits."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator

import httpx
import numpy as np
import openai
import pytest

from mmface.bundles.bundle import Bundle
from serve.engine.generator import Generator
from serve.http.api import create_app
from tests.serve.service import listening, mask_png, pixels, sketch_png, tiny_recipe

KEY = "a-long-random-word"


@pytest.fixture(scope="module")
def address(bundle: Bundle) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_KEYS", f"tests:{hashlib.sha256(KEY.encode()).hexdigest()}")
        settings = tiny_recipe(api_keys_env="TEST_KEYS", requests_per_minute=600).serve
        app = create_app(Generator(bundle, settings), settings)
    with listening(app) as url:
        yield f"{url}/v1"


@pytest.fixture
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=address, api_key=KEY, max_retries=0)


def test_a_mask_and_a_sketch_are_recognised(client: openai.OpenAI, address: str) -> None:
    for drawing, modality in ((mask_png(), "mask"), (sketch_png(), "sketch")):
        made = client.images.edit(image=("d.png", drawing), prompt="a face", n=2, extra_body={"seed": 5})
        assert made.data is not None
        assert [image.seed for image in made.data] == [5, 6]  # type: ignore[attr-defined]
        assert any(f"taken for a {modality}" in line for line in made.warnings)  # type: ignore[attr-defined]
        plain = httpx.post(
            f"{address}/generate/{modality}",
            files={"condition": ("d.png", drawing)},
            data={"prompt": "a face", "seed": "6"},
            headers={"Authorization": f"Bearer {KEY}", "Accept": "image/png"},
        )
        second = made.data[1].b64_json
        assert second is not None
        np.testing.assert_array_equal(pixels(base64.b64decode(second)), pixels(plain.content))


def test_the_client_reads_streams(client: openai.OpenAI) -> None:
    events = list(
        client.images.edit(
            image=("m.png", mask_png()),
            prompt="a face",
            stream=True,
            partial_images=2,
            output_format="webp",
            extra_body={"num_inference_steps": 6},
        )
    )
    assert [event.type for event in events] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    assert base64.b64decode(events[-1].b64_json)[8:12] == b"WEBP"


def test_the_client_lists_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["mmface-dit:7"]
    assert client.models.retrieve("mmface-dit").id == client.models.retrieve("mmface-dit:7").id == "mmface-dit:7"


def test_errors_raise_the_clients_matching_classes(client: openai.OpenAI, address: str) -> None:
    def edit(client: openai.OpenAI = client, **fields: object) -> None:
        client.images.edit(**({"image": ("m.png", mask_png()), "prompt": "a face"} | fields))  # type: ignore[call-overload]

    with pytest.raises(openai.BadRequestError) as bad:
        edit(image=("m.png", b"no picture"))
    assert (bad.value.param, bad.value.code) == ("image", "invalid_image")
    with pytest.raises(openai.UnprocessableEntityError):
        edit(n=99)
    with pytest.raises(openai.NotFoundError) as unknown:
        edit(model="dall-e-3")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("mmface-dit:8")
    with pytest.raises(openai.AuthenticationError):
        edit(openai.OpenAI(base_url=address, api_key="another", max_retries=0))


def test_a_rate_limit_tells_the_client_when_to_retry(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEYS", f"tests:{hashlib.sha256(KEY.encode()).hexdigest()}")
    settings = tiny_recipe(api_keys_env="TEST_KEYS", requests_per_minute=1).serve
    with listening(create_app(Generator(bundle, settings), settings)) as url:
        hasty = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
        assert hasty.models.list().data
        with pytest.raises(openai.RateLimitError) as refused:
            hasty.models.list()
        assert 1 <= int(refused.value.response.headers["Retry-After"]) <= 60
