"""The generator: queue bound, deadline, cancellation, readiness, batching, limits."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from dataclasses import replace

import httpx
import numpy as np
import pytest
import torch

from mmface.bundles.bundle import Bundle
from mmface.errors import InputError, ServiceError
from serve.engine.generator import FRESH_S, Generator
from serve.http.api import create_app
from serve.http.errors import OverloadedError
from serve.http.job import Generated, Job, Progress
from serve.http.requests import GenerateRequest
from tests.serve.service import mask_png, tiny_recipe

LONG = 1000

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def job(seed: int = 0, **fields: object) -> Job:
    fields = {"prompt": "a face"} | fields
    asked = GenerateRequest.model_validate(fields)
    return Job("mask", np.zeros((64, 64), np.uint8), asked, tuple(range(seed, seed + asked.n)))


async def steps_past(generator: Generator, steps: int) -> None:
    while generator.engine.counters.steps < steps:
        await asyncio.sleep(0.001)


async def test_cancelling_frees_the_engine_within_one_step(generator: Generator) -> None:
    task = asyncio.create_task(generator.generate(job(num_inference_steps=LONG)))
    await steps_past(generator, 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    at_leaving = generator.engine.counters.steps
    made = await generator.generate(job(num_inference_steps=2))
    assert made.images.shape == (1, 64, 64, 3)
    assert generator.engine.counters.steps <= at_leaving + 1 + 2
    assert (await generator.ready()).cancelled == 1


async def test_a_waiting_job_that_is_cancelled_never_starts(bundle: Bundle) -> None:
    generator = Generator(bundle, tiny_recipe(max_batch=1).serve)
    first = asyncio.create_task(generator.generate(job(num_inference_steps=50)))
    await steps_past(generator, 1)
    second = asyncio.create_task(generator.generate(job(num_inference_steps=LONG)))
    await asyncio.sleep(0)
    second.cancel()
    await first
    await generator.generate(job(num_inference_steps=2))
    assert generator.engine.counters.steps == 52


async def test_the_queue_is_bounded(bundle: Bundle) -> None:
    generator = Generator(bundle, tiny_recipe(max_batch=1).serve)
    running = [asyncio.create_task(generator.generate(job(num_inference_steps=LONG))) for _ in range(3)]
    await steps_past(generator, 1)
    with pytest.raises(OverloadedError) as refusal:
        await generator.generate(job())
    assert pickle.loads(pickle.dumps(refusal.value)).retry_after_s == refusal.value.retry_after_s > 0  # noqa: S301
    readiness = await generator.ready()
    assert (readiness.running, readiness.queued) == (True, 2)
    app = create_app(generator, bundle.recipe.serve)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.post("/v1/generate/mask", files={"condition": mask_png()}, data={"prompt": ""})
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.json()["error"]["type"] == "rate_limit_error"
    for task in running:
        task.cancel()


async def test_the_deadline_answers_408_and_frees_the_engine(bundle: Bundle) -> None:
    settings = bundle.recipe.serve.model_copy(update={"timeout_s": 0.3})
    generator = Generator(bundle, settings)
    app = create_app(generator, settings)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        fields = {"prompt": "", "num_inference_steps": LONG}
        answer = await client.post("/v1/generate/mask", files={"condition": mask_png()}, data=fields)
    assert answer.status_code == 408
    assert answer.json()["error"]["type"] == "timeout_error"
    at_leaving = generator.engine.counters.steps
    assert at_leaving < LONG
    await asyncio.wait_for(generator.generate(job()), 5)
    assert generator.engine.counters.cancelled == 1
    assert generator.engine.counters.steps <= at_leaving + 1 + 3


async def test_readiness_does_a_forward_pass_and_caches_it_for_seconds(bundle: Bundle) -> None:
    generator = Generator(bundle, bundle.recipe.serve)
    proven = generator.engine.counters.last_forward
    await generator.ready()
    assert generator.engine.counters.last_forward == proven
    generator.engine.counters.last_forward -= FRESH_S
    await generator.ready()
    assert generator.engine.counters.last_forward > proven


async def test_weights_that_are_not_finite_are_not_served(bundle: Bundle) -> None:
    broken = copy.copy(bundle.pipeline)
    broken.transformer = copy.deepcopy(bundle.pipeline.transformer)
    with torch.no_grad():
        broken.transformer.x_embedder.proj.weight[0] = torch.nan
    with pytest.raises(ServiceError, match="not finite"):
        Generator(replace(bundle, pipeline=broken), bundle.recipe.serve)


async def test_a_step_that_hangs_is_unhealthy(generator: Generator) -> None:
    await generator.check_health()
    release = threading.Event()

    def hang(*_: object) -> None:
        release.wait(10)

    hook = generator.pipeline.transformer.register_forward_pre_hook(hang)
    task = asyncio.create_task(generator.generate(job()))
    await asyncio.sleep(0.05)
    generator.engine.counters.last_forward -= 2 * generator.settings.timeout_s + 1
    with pytest.raises(ServiceError, match="no denoising step"):
        await generator.check_health()
    hook.remove()
    release.set()
    await task


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
async def test_bytes_do_not_depend_on_concurrent_requests(bundle: Bundle, precision: str) -> None:
    """Requests of other prompts, drawings, seeds, sizes, samplers, steps and guidance join and leave meanwhile."""
    pipeline = copy.copy(bundle.pipeline)
    pipeline.register_to_config(precision=precision)
    generator = Generator(replace(bundle, pipeline=pipeline), tiny_recipe(max_batch=6, max_queued=9).serve)
    jobs = [
        job(3, num_inference_steps=9),
        job(3, num_inference_steps=9, guidance_scale=1.0),
        job(8, prompt="a man with a beard", num_inference_steps=4, guidance_scale=5.5),
        job(9, n=2, num_inference_steps=6),
        job(10, num_inference_steps=7, drawing_guidance_scale=2.0, guidance_start=0.2, guidance_end=0.7),
        job(11, size="32", num_inference_steps=12),
        replace(job(12, prompt="", num_inference_steps=5), modality="sketch"),
    ]
    alone = [(await generator.generate(one)).images for one in jobs]
    together = []
    for i, one in enumerate(jobs):
        together.append(asyncio.create_task(generator.generate(one)))
        await steps_past(generator, generator.engine.counters.steps + (i % 2))
    for quiet, task in zip(alone, together, strict=True):
        np.testing.assert_array_equal(quiet, (await task).images)


async def test_images_of_several_requests_share_a_step(bundle: Bundle) -> None:
    moved: list[int] = []
    generator = Generator(bundle, tiny_recipe(max_batch=4).serve, lambda images, seconds: moved.append(images))
    tasks = [
        asyncio.create_task(generator.generate(job(i, n=n, num_inference_steps=40))) for i, n in enumerate((1, 2, 3))
    ]
    await asyncio.gather(*tasks)
    assert max(moved) == 4
    assert sum(moved) == 6 * 40


async def test_a_stream_reports_the_queue_position_and_steps(bundle: Bundle) -> None:
    generator = Generator(bundle, tiny_recipe(max_batch=1).serve)
    first = asyncio.create_task(generator.generate(job(num_inference_steps=20)))
    await steps_past(generator, 1)
    events = [event async for event in generator.stream(job(n=2, num_inference_steps=6))]
    await first
    *reports, made = events
    assert isinstance(made, Generated)
    assert all(isinstance(event, Progress) for event in reports)
    assert reports[0] == Progress(ahead=1, step=0, steps=6)
    assert reports[-1].ahead == 0


async def test_sizes_and_steps_beyond_the_models_limits_are_refused(generator: Generator, bundle: Bundle) -> None:
    made = await generator.generate(job(size="32x64"))
    assert made.images.shape == (1, 64, 32, 3)
    for fields, name in (({"size": "30"}, "size"), ({"size": "128"}, "size")):
        with pytest.raises(InputError) as refusal:
            await generator.generate(job(**fields))
        assert refusal.value.field == name
    few = Generator(bundle, tiny_recipe(max_steps=10).serve)
    with pytest.raises(InputError, match="at most 10"):
        await few.generate(job(num_inference_steps=11))


async def test_batches_larger_than_the_limit_are_split(bundle: Bundle) -> None:
    split = Generator(bundle, tiny_recipe(max_batch=2).serve)
    whole = Generator(bundle, tiny_recipe(max_batch=8).serve)
    parts, at_once = [(await one.generate(job(n=5))).images for one in (split, whole)]
    np.testing.assert_array_equal(parts, at_once)
