"""Server-sent events over real HTTP: queue position, steps, previews, pictures, errors, disconnects."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

import httpx
import numpy as np
import pytest

from mmface.bundles.bundle import Bundle
from serve.engine.generator import Generator
from serve.http import streaming
from serve.http.api import create_app
from tests.serve.service import listening, mask_png, pixels, tiny_recipe

MASK = "/v1/generate/mask"


@pytest.fixture(scope="module")
def alone(bundle: Bundle) -> Iterator[tuple[str, Generator]]:
    """A service that handles one request at a time."""
    settings = tiny_recipe(max_batch=1, timeout_s=5).serve
    generator = Generator(bundle, settings)
    with listening(create_app(generator, settings)) as url:
        yield url, generator


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    found = []
    for block in answer.text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def ask(url: str, **fields: Any) -> httpx.Response:
    data = {"prompt": "a face", "seed": "4", "stream": "true"} | {name: str(value) for name, value in fields.items()}
    return httpx.post(f"{url}{MASK}", files={"condition": ("m.png", mask_png())}, data=data, timeout=30)


def test_a_stream_has_steps_previews_and_the_picture_of_a_plain_request(alone: tuple[str, Generator]) -> None:
    url, _ = alone
    answer = ask(url, num_inference_steps=6, partial_images=2, n=1)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    sent = events(answer)
    kinds = [event["type"] for event in sent]
    assert kinds[0] == "queued"
    assert kinds[-1] == "completed"
    assert kinds.count("partial_image") == 2
    steps = [event["step"] for event in sent if event["type"] == "step"]
    assert steps == sorted(set(steps))
    assert {event["steps"] for event in sent if event["type"] == "step"} == {6}
    previews = [event for event in sent if event["type"] == "partial_image"]
    assert [event["partial_image_index"] for event in previews] == [0, 1]
    final = pixels(base64.b64decode(sent[-1]["data"][0]["b64_json"]))
    plain = ask(url, num_inference_steps=6, stream="false").json()
    np.testing.assert_array_equal(final, pixels(base64.b64decode(plain["data"][0]["b64_json"])))
    # Each preview is closer to the final picture.
    distances = [
        np.abs(pixels(base64.b64decode(event["data"][0]["b64_json"])).astype(int) - final).mean() for event in previews
    ]
    assert distances[1] < distances[0]


def test_an_error_before_the_first_event_is_a_plain_error_answer(alone: tuple[str, Generator]) -> None:
    url, _ = alone
    answer = ask(url, size="30")
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "size")


def test_the_deadline_is_an_error_event_once_the_stream_has_begun(alone: tuple[str, Generator]) -> None:
    url, generator = alone
    sent = events(ask(url, num_inference_steps=1000, n=8))
    assert sent[-1]["type"] == "error"
    assert sent[-1]["error"]["type"] == "timeout_error"
    steps = generator.engine.counters.steps
    assert ask(url, num_inference_steps=2).status_code == 200
    assert generator.engine.counters.steps <= steps + 1 + 2 + 1


def test_a_client_that_disconnects_frees_the_engine(alone: tuple[str, Generator]) -> None:
    url, generator = alone

    async def leave() -> None:
        data = {"prompt": "", "stream": "true", "num_inference_steps": "1000"}
        async with httpx.AsyncClient(base_url=url) as client:
            files = {"condition": ("m.png", mask_png())}
            async with client.stream("POST", MASK, files=files, data=data) as answer:
                async for line in answer.aiter_lines():
                    if '"step"' in line:
                        return

    cancelled = generator.engine.counters.cancelled
    asyncio.run(leave())
    assert ask(url, num_inference_steps=2).status_code == 200
    assert generator.engine.counters.cancelled == cancelled + 1


async def a_long_one_and_a_short_one(url: str) -> tuple[httpx.Response, httpx.Response]:
    """Two streams, of 100 steps and of 2; the second one has to wait."""
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:

        async def one(steps: int) -> httpx.Response:
            data = {"prompt": "", "stream": "true", "num_inference_steps": str(steps)}
            return await client.post(MASK, files={"condition": ("m.png", mask_png())}, data=data)

        first = asyncio.create_task(one(100))
        await asyncio.sleep(0.1)
        second = await one(2)
        return await first, second


def test_queued_events_count_the_requests_ahead(alone: tuple[str, Generator]) -> None:
    url, _ = alone

    first, second = asyncio.run(a_long_one_and_a_short_one(url))
    assert events(first)[-1]["type"] == "completed"
    waited = [event["ahead"] for event in events(second) if event["type"] == "queued"]
    assert waited == sorted(waited, reverse=True)
    assert waited[0] == 1


def test_a_stream_without_events_sends_comments(alone: tuple[str, Generator], monkeypatch: pytest.MonkeyPatch) -> None:
    url, _ = alone
    assert streaming.QUIET_S < 10
    monkeypatch.setattr(streaming, "QUIET_S", 0.02)

    _, second = asyncio.run(a_long_one_and_a_short_one(url))
    blocks = second.text.strip().split("\n\n")
    comments = [place for place, block in enumerate(blocks) if block.startswith(":")]
    assert comments[0] < next(place for place, block in enumerate(blocks) if "event: step" in block)  # while it waits
    sent = [block for place, block in enumerate(blocks) if place not in comments]
    assert [block.split("\n")[0] for block in (sent[0], sent[-1])] == ["event: queued", "event: completed"]


def test_with_pauses_yields_none_in_pauses_and_closes_its_source() -> None:
    ended = []

    async def source() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.sleep(0.05)
            yield 2
            await asyncio.Event().wait()
        finally:
            ended.append("source")

    async def listen() -> list[int | None]:
        received: list[int | None] = []
        async with aclosing(streaming.with_pauses(source(), 0.01)) as items:
            async for one in items:
                received.append(one)
                if one is None and 2 in received:
                    break
        return received

    received = asyncio.run(listen())
    assert (received[0], received[-1], ended) == (1, None, ["source"])
    assert [one for one in received if one is not None] == [1, 2]
    assert received.index(2) > 1  # a pause before it

    async def failing() -> AsyncIterator[int]:
        yield 1
        raise ValueError("broken")

    async def hear(one: AsyncIterator[int]) -> list[int | None]:
        return [item async for item in streaming.with_pauses(one, 5)]

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(hear(failing()))


def test_a_client_that_disconnects_in_a_pause_frees_the_engine(
    alone: tuple[str, Generator], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, generator = alone
    monkeypatch.setattr(streaming, "QUIET_S", 0.02)
    cancelled = generator.engine.counters.cancelled
    data = {"prompt": "", "stream": "true", "num_inference_steps": "1000"}
    files = {"condition": ("m.png", mask_png())}

    def read_until(word: str) -> None:
        with httpx.stream("POST", f"{url}{MASK}", files=files, data=data, timeout=30) as answer:
            for line in answer.iter_lines():
                if line.startswith(word):
                    return

    with ThreadPoolExecutor() as pool:
        first = pool.submit(
            httpx.post, f"{url}{MASK}", files=files, data=data | {"num_inference_steps": "60"}, timeout=30
        )
        while not generator.engine.pending:
            time.sleep(0.005)
        read_until(":")
        assert first.result().text.rstrip().splitlines()[-2] == "event: completed"
    assert ask(url, num_inference_steps=2).status_code == 200
    assert generator.engine.counters.cancelled == cancelled + 1
