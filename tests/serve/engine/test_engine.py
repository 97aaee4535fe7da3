"""Errors while painting: which requests fail, which continue, what is freed; out of memory; a dead thread."""

from __future__ import annotations

import asyncio
import copy
import gc
import itertools
import json
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from mmface.bundles.bundle import Bundle
from mmface.errors import MMFaceError, ServiceError
from mmface.networks.precision import rows_are_alike
from serve.engine.generator import FRESH_S, Generator
from serve.http.api import create_app
from serve.http.errors import GenerationError
from serve.http.job import Generated
from tests.serve.engine.test_generator import job, steps_past
from tests.serve.service import mask_png, tiny_recipe

pytestmark = pytest.mark.anyio

NO_MEMORY = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"
WAIT_S = 60.0  # timeout of calls that return at once unless they hang


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@contextmanager
def before_each(generator: Generator, act: Callable[[int, torch.Tensor], None]) -> Iterator[None]:
    """Calls ``act`` before each network evaluation with its number and latents [rows, ...]; it may raise."""
    numbers = itertools.count(1)
    network = generator.pipeline.transformer
    handle = network.register_forward_pre_hook(lambda _, given: act(next(numbers), given[0]))
    try:
        yield
    finally:
        handle.remove()


def computing_in(bundle: Bundle, precision: str, **settings: Any) -> Generator:
    """A generator of this precision. CPUs evaluate fp32 images one by one, and bf16 ones too if they have AMX."""
    pipeline = copy.copy(bundle.pipeline)
    pipeline.register_to_config(precision=precision)
    return Generator(replace(bundle, pipeline=pipeline), tiny_recipe(**settings).serve)


async def at_once(*requests: Any) -> list[Any]:
    return await asyncio.wait_for(asyncio.gather(*requests, return_exceptions=True), WAIT_S)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (FloatingPointError("overflow"), 500, "generation_failed"),
        (KeyError("a bug"), 500, "generation_failed"),
        (torch.OutOfMemoryError("CUDA out of memory"), 503, "out_of_memory"),
        (RuntimeError(NO_MEMORY), 503, "out_of_memory"),
        (MemoryError(), 503, "out_of_memory"),
    ],
    ids=["numerical", "bug", "cuda", "cpu", "python"],
)
async def test_an_error_in_a_step_ends_only_its_own_request(
    bundle: Bundle, error: Exception, status: int, code: str
) -> None:
    generator = computing_in(bundle, "fp32", max_batch=2, max_queued=4)
    others = [job(seed, num_inference_steps=6) for seed in (1, 2, 3)]
    expected = [(await generator.generate(one)).images for one in others]
    evaluated: list[weakref.ref[torch.Tensor]] = []

    def act(_: int, latents: torch.Tensor) -> None:
        if len(latents) == 1:  # the only request without guidance
            evaluated.append(weakref.ref(latents))
            if len(evaluated) == 3:
                raise copy.copy(error)

    with before_each(generator, act):
        victim = generator.generate(job(9, guidance_scale=1.0, num_inference_steps=6))
        failure, *made = await at_once(victim, *(generator.generate(one) for one in others))
    assert isinstance(failure, MMFaceError)
    assert failure.code == code
    for one, images in zip(made, expected, strict=True):
        assert isinstance(one, Generated), one
        np.testing.assert_array_equal(one.images, images)
    gc.collect()
    assert [one() for one in evaluated] == [None] * 3  # although ``failure`` is still referenced here
    assert generator.engine.pending == 0
    await generator.check_health()

    def fail(_: int, latents: torch.Tensor) -> None:
        raise copy.copy(error)

    app = create_app(generator, bundle.recipe.serve)
    with before_each(generator, fail):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            call = {"files": {"condition": mask_png()}, "timeout": WAIT_S}
            answer = await client.post("/v1/generate/mask", data={"prompt": ""}, **call)
            events = await client.post("/v1/generate/mask", data={"prompt": "", "stream": "true"}, **call)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert ("Retry-After" in answer.headers) == (status == 503)
    assert events.status_code == 200
    last = json.loads(events.text.strip().rpartition("data: ")[2])
    assert (last["type"], last["error"]["code"]) == ("error", code)


async def test_a_failed_batch_does_not_fail_waiting_requests(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.engine.denoiser.rows_are_alike", lambda *_: True)  # on CPUs with AMX too
    generator = computing_in(bundle, "bf16", max_batch=2, max_queued=4)
    requests = [job(seed, num_inference_steps=4) for seed in range(4)]
    expected = [(await generator.generate(one)).images for one in requests]

    def act(_: int, latents: torch.Tensor) -> None:
        if len(latents) == 4 and not failed:
            failed.append(True)
            raise ValueError("a bug")

    failed: list[bool] = []
    with before_each(generator, act):
        first, second, *rest = await at_once(*(generator.generate(one) for one in requests))
    assert [type(one) for one in (first, second)] == [GenerationError] * 2
    for one, images in zip(rest, expected[2:], strict=True):
        assert isinstance(one, Generated), one
        np.testing.assert_array_equal(one.images, images)


async def test_a_batch_that_ran_out_of_memory_is_retried_in_halves_and_the_limit_lowered(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("serve.engine.denoiser.rows_are_alike", lambda *_: True)
    generator = computing_in(bundle, "bf16", max_batch=4)
    four = job(5, n=4, num_inference_steps=5)
    expected = await generator.generate(four)
    rows: list[int] = []

    def act(_: int, latents: torch.Tensor) -> None:
        rows.append(len(latents))
        if len(latents) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")

    before = generator.engine.room.limit
    with before_each(generator, act):
        first, second = await at_once(generator.generate(four), generator.generate(four))
        assert isinstance(first, Generated), first
        assert isinstance(second, Generated), second
    assert rows[:3] == [8, 4, 4]
    assert max(rows[1:]) == 4
    assert len(rows) == 1 + 2 * 2 * 5
    assert generator.engine.room.limit < before
    assert "out of memory with 4 images" in caplog.text
    if rows_are_alike(True, torch.device("cpu")):
        np.testing.assert_array_equal(first.images, expected.images)
        np.testing.assert_array_equal(second.images, expected.images)


async def test_a_request_that_runs_out_of_memory_twice_fails_and_the_next_one_succeeds(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.engine.denoiser.rows_are_alike", lambda *_: True)
    generator = computing_in(bundle, "bf16")

    def act(_: int, latents: torch.Tensor) -> None:
        if len(latents) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with before_each(generator, act):
        failure, made = await at_once(
            generator.generate(job(1, n=2)), generator.generate(job(2, guidance_scale=1.0, num_inference_steps=9))
        )
    assert isinstance(failure, MMFaceError)
    assert failure.code == "out_of_memory"
    assert isinstance(made, Generated), made


async def test_latents_that_are_not_finite_are_an_error(generator: Generator) -> None:
    hook = generator.pipeline.transformer.register_forward_hook(lambda _, given, made: (made[0] * torch.nan,))
    try:
        (failure,) = await at_once(generator.generate(job()))
    finally:
        hook.remove()
    assert isinstance(failure, MMFaceError)
    assert failure.message.startswith("a step failed (FloatingPointError)")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_dead_thread_leaves_no_request_waiting(bundle: Bundle) -> None:
    generator = Generator(bundle, tiny_recipe(max_batch=1).serve)

    def act(number: int, _: torch.Tensor) -> None:
        if number == 3:
            raise SystemExit

    with before_each(generator, act):
        failures = await at_once(*(generator.generate(job(seed)) for seed in range(3)))
    generator.engine._thread.join(WAIT_S)
    assert [type(one) for one in failures] == [ServiceError] * 3
    (refusal,) = await at_once(generator.generate(job()))
    assert isinstance(refusal, ServiceError)
    with pytest.raises(ServiceError, match="the engine has stopped"):
        await generator.check_health()


async def test_requests_may_arrive_while_a_step_is_assembled(generator: Generator) -> None:
    engine = generator.engine

    class Guarded(deque[Any]):
        def __iter__(self) -> Iterator[Any]:
            assert engine._queue._changed._is_owned(), "an arriving request could change it"  # type: ignore[attr-defined]
            return super().__iter__()

    engine._queue._paintings = Guarded()
    made, other = await at_once(generator.generate(job(1)), generator.generate(job(2)))
    assert isinstance(made, Generated), made
    assert isinstance(other, Generated), other


async def test_out_of_memory_in_the_readiness_probe_is_a_service_error(generator: Generator) -> None:
    def act(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    generator.engine.counters.last_forward -= FRESH_S
    with before_each(generator, act), pytest.raises(ServiceError, match="out of memory"):
        await generator.ready()


async def test_a_version_that_cannot_be_served_leaves_no_thread(bundle: Bundle) -> None:
    broken = copy.copy(bundle.pipeline)
    broken.transformer = copy.deepcopy(bundle.pipeline.transformer)
    with torch.no_grad():
        broken.transformer.x_embedder.proj.weight[0] = torch.nan
    weights = weakref.ref(broken.transformer)
    known = set(threading.enumerate())
    with pytest.raises(ServiceError, match="not finite"):
        Generator(replace(bundle, pipeline=broken), bundle.recipe.serve)
    for thread in set(threading.enumerate()) - known:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    del broken
    gc.collect()
    assert weights() is None


async def test_images_begin_only_if_their_predicted_bytes_fit(bundle: Bundle) -> None:
    eight = job(1, n=8)
    bytes_of = Generator(bundle, tiny_recipe().serve).engine.room.footprint.image
    gib = 2.5 * bytes_of(64, 64, rows=2) / 2**30
    moved: list[int] = []
    generator = Generator(
        bundle, tiny_recipe(max_memory_gib=gib, max_queued=9).serve, lambda images, _: moved.append(images)
    )
    first = asyncio.create_task(generator.generate(eight))
    await steps_past(generator, 1)
    second = asyncio.create_task(generator.generate(job(2, size="32")))
    await asyncio.sleep(0)
    assert generator.engine.waiting() == 1  # in order of arrival
    made, small = await at_once(first, second)
    assert isinstance(small, Generated), small
    assert sum(moved) == (8 + 1) * 3
    assert max(moved) == 2
    np.testing.assert_array_equal(made.images, (await Generator(bundle, tiny_recipe().serve).generate(eight)).images)
    moved.clear()
    await generator.generate(job(3, n=8, size="32", guidance_scale=1.0))
    assert max(moved) > 2
    tight = Generator(bundle, tiny_recipe(max_memory_gib=1e-9).serve)
    assert isinstance((await at_once(tight.generate(job(1, n=2))))[0], Generated)  # a single image always fits
