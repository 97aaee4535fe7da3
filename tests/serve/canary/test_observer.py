"""What a replica observes of real answers of tiny engines."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mmface.bundles.bundle import Bundle
from mmface.errors import ServiceError
from serve.canary.observer import MAX_SAMPLES, Observation, Observer, Sample, hash_fraction, work
from serve.engine.generator import Generator
from serve.http.errors import GenerationError, OverloadedError
from serve.http.job import Generated
from tests.serve.engine.test_generator import job
from tests.serve.service import tiny_recipe

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Desk:
    """Two versions behind an observer, and what it has sent and skipped."""

    def __init__(self, bundle: Bundle, **serve: Any) -> None:
        canary = {"alias": "challenger", "share": 0.5, "auto": True}
        settings = tiny_recipe(canary=canary, **serve).serve
        self.sent: list[Observation] = []
        self.skips: list[tuple[str, str]] = []
        self.both = [Generator(replace(bundle, version=version), settings) for version in ("1", "2")]
        self.observer = Observer(settings, self.send, lambda version, reason: self.skips.append((version, reason)))

    async def send(self, batch: list[Observation]) -> None:
        self.sent += batch

    async def ask(self, which: int, seed: int = 0, version: str | None = None, **fields: Any) -> Generated:
        asked, generator = replace(job(seed, **fields), version=version), self.both[which]
        with self.observer.request(asked, generator, self.both) as answered:
            made = await generator.generate(asked)
            answered(made)
            return made


async def test_an_answer_is_observed_with_its_duration_and_picture(bundle: Bundle) -> None:
    desk = Desk(bundle)
    made = await desk.ask(1, seed=5, size="64x32", fit="crop")
    await desk.observer.flush()
    (seen,) = desk.sent
    assert (seen.champion, seen.canary, seen.by_canary, seen.seed, seen.failed) == ("1", "2", True, 5, False)
    assert seen.duration is not None
    assert seen.duration > 0
    assert seen.sample is not None
    np.testing.assert_array_equal(seen.sample.picture, made.images[0])
    assert seen.sample.mask.shape == (32, 64)  # the client's is 64x64


async def test_what_says_nothing_about_the_versions_is_not_observed(bundle: Bundle) -> None:
    desk = Desk(bundle, max_batch=1, max_queued=1)
    await desk.ask(0, version="1")  # the client chose the version
    long = asyncio.create_task(desk.ask(0, seed=1, num_inference_steps=1000))
    waits = asyncio.create_task(desk.ask(0, seed=2))
    await asyncio.sleep(0.05)
    with pytest.raises(OverloadedError):
        await desk.ask(0, seed=3)
    for task in (long, waits):  # their clients leave
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    alone = Desk(bundle)
    alone.both = alone.both[:1]  # the canary is not loaded here
    await alone.ask(0)
    for one in (desk, alone):
        await one.observer.flush()
        assert one.sent == []


async def test_errors_and_deadlines_are_failures(bundle: Bundle) -> None:
    desk = Desk(bundle, timeout_s=0.01)
    desk.both[1].engine._denoiser._transformer = None  # type: ignore[assignment]
    with pytest.raises(GenerationError):
        await desk.ask(1, seed=1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await desk.ask(0, seed=2, num_inference_steps=1000)
    await desk.observer.flush()
    assert [(one.by_canary, one.seed, one.failed, one.duration, one.sample) for one in desk.sent] == [
        (True, 1, True, None, None),
        (False, 2, True, None, None),
    ]


async def test_only_requests_that_meet_an_idle_replica_are_timed(bundle: Bundle) -> None:
    desk = Desk(bundle)
    await asyncio.gather(desk.ask(0, seed=1), desk.ask(1, seed=2))
    await desk.observer.flush()
    assert [one.duration is not None for one in sorted(desk.sent, key=lambda one: one.seed)] == [True, False]


async def test_samples_are_bounded_and_the_champions_are_as_many_as_the_canarys(bundle: Bundle) -> None:
    desk = Desk(bundle)
    made = await desk.ask(1)
    for seed in range(1, MAX_SAMPLES + 3):
        with desk.observer.request(job(seed), desk.both[1], desk.both) as answered:
            answered(made)
    await desk.observer.flush()
    assert sum(one.sample is not None for one in desk.sent) == MAX_SAMPLES
    assert desk.skips == [("2", "full")] * 3
    rare = Observer(tiny_recipe(canary={"alias": "c", "share": 0.1, "auto": True}).serve, desk.send, lambda *_: None)
    desk.sent.clear()
    for seed in range(300):
        with rare.request(job(seed), desk.both[0], desk.both) as answered:
            answered(made)
        if seed % 5 == 0:
            await rare.flush()
    assert sum(one.sample is not None for one in desk.sent) / 300 == pytest.approx(1 / 9, abs=0.04)


async def test_a_report_that_does_not_arrive_is_lost_and_said(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    async def refuse(batch: list[Observation]) -> None:
        raise ServiceError("no answer")

    desk = Desk(bundle)
    desk.observer._send = refuse
    await desk.ask(1)
    await desk.observer.flush()
    assert "1 observations are lost: no answer" in caplog.text


def test_work_counts_pictures_steps_area_and_guidance(bundle: Bundle) -> None:
    info = Generator(bundle, bundle.recipe.serve).info  # 64x64, 3 steps, guidance 2
    assert work(job(), info) == 1
    assert work(job(n=2, num_inference_steps=6, size="64x32", guidance_scale=1), info) == pytest.approx(2 * 2 / 2 / 2)
    assert work(job(drawing_guidance_scale=2), info) == pytest.approx(3 / 2)
    assert work(job(guidance_start=0.5), info) == pytest.approx(1.5 / 2)


def test_a_sample_is_fitted_as_the_model_saw_it() -> None:
    mask = np.repeat(np.arange(4, dtype=np.uint8)[None], 4, 0)  # columns 0 1 2 3
    cropped = Sample(mask, np.zeros((8, 4, 3), np.uint8), "crop").fitted()
    assert cropped.mask.shape == (8, 4)
    assert sorted(set(cropped.mask.ravel())) == [1, 2]


def test_fractions_are_even() -> None:
    assert np.mean([hash_fraction(seed) for seed in range(2000)]) == pytest.approx(0.5, abs=0.02)
