"""Compares the service with the bare pipeline: overhead, gain of batching requests, and latency under load.

Serves the champion of ``--home`` (``mmface retrain --recipe demo`` makes one) over HTTP on this machine. Prints

- the median time of one request divided by that of the bare pipeline call for the same image, taking turns;
- images per second with 16 mixed requests in flight divided by one request at a time;
- p99 divided by p50 when requests arrive at random at 70 % of that throughput.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from mmface.data.portraits import draw
from mmface.imaging.labels import mask_to_png
from tests.benchmarks._common import finish, verdict

OVERHEAD, SHARING, TAIL = 1.10, 1.3, 3.0
TOGETHER, LOAD = 16, 0.7


@dataclass(frozen=True)
class Request:
    """One request to the service, which can be sent repeatedly."""

    route: str
    drawing: bytes
    fields: dict[str, str]

    async def send(self, client: httpx.AsyncClient) -> tuple[float, httpx.Response]:
        """Sends the request; returns its seconds and the response."""
        start = time.perf_counter()
        files = {"condition": ("drawing.png", self.drawing)}
        answer = await client.post(self.route, files=files, data=self.fields, headers={"Accept": "image/png"})
        return time.perf_counter() - start, answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True, help="MMFACE_HOME with a champion")
    parser.add_argument("--requests", type=int, default=48, help="requests per measured throughput (default: 48)")
    parser.add_argument("--arrivals", type=int, default=200, help="requests at 70 %% load (default: 200)")
    given = parser.parse_args()
    os.environ["MMFACE_HOME"] = str(given.home.absolute())
    from serve.deploy.app import run, shutdown

    url = run(recipe := served())
    try:
        held = asyncio.run(measure(url, recipe.serve.model_name, given.requests, given.arrivals))
    finally:
        shutdown()
    finish(held)


def served(**settings: Any) -> Any:
    """The demo recipe on a free port."""
    from mmface.config.load import load_recipe

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return load_recipe("demo", [f"serve.port={port}", *(f"serve.{name}={value}" for name, value in settings.items())])


def mixed(count: int, steps: Sequence[int] = (8, 12, 16)) -> list[Request]:
    """Requests with masks and sketches and different prompts, seeds, step counts and guidance scales."""
    rng, made = np.random.default_rng(0), []
    for number in range(count):
        portrait = draw(500_000 + number, 128)
        if number % 2:
            route, drawing = "/v1/generate/sketch", outline(portrait.mask)
        else:
            route, drawing = "/v1/generate/mask", mask_to_png(portrait.mask)
        fields = {
            "prompt": portrait.captions[0],
            "seed": str(number),
            "num_inference_steps": str(rng.choice(steps)),
            "guidance_scale": str(rng.choice([1.0, 2.0, 4.0])),
        }
        made.append(Request(route, drawing, fields))
    return made


def outline(mask: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """The borders of a mask's labels, dark on white."""
    border = np.zeros(mask.shape, bool)
    border[1:] |= mask[1:] != mask[:-1]
    border[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    sink = BytesIO()
    Image.fromarray(np.where(border, 0, 255).astype(np.uint8)).save(sink, "PNG")
    return sink.getvalue()


async def measure(url: str, model: str, count: int, arrivals: int) -> list[bool]:
    """Measures and prints the three figures."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
        one = mixed(1)[0]
        await one.send(client)
        served_s, bare_s = await against_bare(client, one, model)
        print(f"     one request {served_s * 1e3:.0f} ms, the bare pipeline {bare_s * 1e3:.0f} ms")
        held = [verdict("one request over the bare pipeline", served_s / bare_s, OVERHEAD, unit=" x")]
        requests = mixed(count)
        alone, together = await per_second(client, requests, 1), await per_second(client, requests, TOGETHER)
        print(f"     {alone:.2f} pictures/s one at a time, {together:.2f} with {TOGETHER} under way")
        what = f"throughput of {TOGETHER} at once over one at a time"
        held.append(verdict(what, together / alone, SHARING, at_most=False, unit=" x"))
        p50, p99 = await at_random(client, requests, arrivals, LOAD * together)
        print(f"     at {LOAD:.0%} load p50 {p50:.2f} s, p99 {p99:.2f} s")
        held.append(verdict(f"p99 over p50 at {LOAD:.0%} load", p99 / p50, TAIL, unit=" x"))
    return held


async def against_bare(client: httpx.AsyncClient, one: Request, model: str) -> tuple[float, float]:
    """Median seconds of a request over HTTP and of the pipeline in this process, taking turns."""
    bare = pipeline_call(one, model)
    bare()
    times: list[tuple[float, float]] = []
    for _ in range(9):
        seconds, answer = await one.send(client)
        answer.raise_for_status()
        start = time.perf_counter()
        bare()
        times.append((seconds, time.perf_counter() - start))
    return tuple(float(np.median(column)) for column in zip(*times, strict=True))  # type: ignore[return-value]


def pipeline_call(one: Request, model: str) -> Callable[[], bytes]:
    """A function that paints the same image as the service with the bare pipeline."""
    import torch

    from mmface.bundles.registry import load_bundle
    from mmface.networks.precision import keep_in_bf16

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    pipeline = load_bundle(model).pipeline
    if pipeline.bf16:
        keep_in_bf16(pipeline.transformer)  # like the service
    pipeline.set_progress_bar_config(disable=True)

    def call() -> bytes:
        image = pipeline(
            one.fields["prompt"],
            Image.open(BytesIO(one.drawing)),
            one.route.rsplit("/", 1)[1],
            num_inference_steps=int(one.fields["num_inference_steps"]),
            guidance_scale=float(one.fields["guidance_scale"]),
            seeds=[int(one.fields["seed"])],
        ).images[0]
        sink = BytesIO()
        image.save(sink, "PNG")
        return sink.getvalue()

    return call


async def per_second(client: httpx.AsyncClient, requests: Sequence[Request], together: int) -> float:
    """Images per second with ``together`` requests in flight."""
    waiting = iter(requests)

    async def work() -> None:
        for request in waiting:
            (await request.send(client))[1].raise_for_status()

    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(together)))
    return len(requests) / (time.perf_counter() - start)


async def at_random(
    client: httpx.AsyncClient, requests: Sequence[Request], arrivals: int, rate: float
) -> tuple[float, float]:
    """p50 and p99 of the seconds of requests that arrive as a Poisson process."""
    rng, tasks = np.random.default_rng(1), []
    for request in itertools.islice(itertools.cycle(requests), arrivals):
        tasks.append(asyncio.create_task(request.send(client)))
        await asyncio.sleep(rng.exponential(1 / rate))
    answers = await asyncio.gather(*tasks)
    for _, answer in answers:
        answer.raise_for_status()
    seconds = [seconds for seconds, _ in answers]
    return float(np.percentile(seconds, 50)), float(np.percentile(seconds, 99))


if __name__ == "__main__":
    main()
