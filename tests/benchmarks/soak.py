"""Loads the service for ten minutes with twice its throughput, clients that disconnect, bad requests, a killed replica.

Serves the champion of ``--home``. One client in ten disconnects early, and one request in twenty is invalid; after a
third of the time the replica gets SIGKILL. Every image is compared with the response to the same request without load.
Prints how requests ended and checks that none hung, no image was wrong, every error had the error envelope, the queue
stayed within its limit, memory did not grow, and latency recovered.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from tests.benchmarks._common import finish, verdict
from tests.benchmarks.serving import TOGETHER, Request, mixed, per_second, served

OVERLOAD, LEAVING, WRONG = 2.0, 0.10, 0.05
GROWTH, RECOVERY_S = 0.03, 30.0
NEVER = ("hung", "wrong picture", "not an envelope", "unexpected")
REFUSALS = {400, 406, 408, 413, 415, 422, 429, 503}
SETTLED_S = 60.0  # memory still grows for this long after a start


@dataclass
class Tally:
    """The outcomes of all requests."""

    endings: Counter[str] = field(default_factory=Counter)
    answered: list[tuple[float, float]] = field(default_factory=list)  # time and seconds of successful requests
    queued: int = 0  # most requests in the queue
    memory: list[tuple[float, int]] = field(default_factory=list)  # time and bytes of the replica


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True, help="MMFACE_HOME with a champion")
    parser.add_argument("--minutes", type=float, default=10.0, help="default: 10")
    given = parser.parse_args()
    os.environ["MMFACE_HOME"] = str(given.home.absolute())
    from serve.deploy.app import run, shutdown

    recipe = served(max_queued=16, timeout_s=30)
    url = run(recipe)
    try:
        held = asyncio.run(soak(url, given.minutes * 60, recipe.serve.timeout_s))
    finally:
        shutdown()
    finish(held)


async def soak(url: str, seconds: float, deadline: float) -> list[bool]:
    """Loads the service and checks the outcome."""
    requests, tally = mixed(24), Tally()
    async with httpx.AsyncClient(
        base_url=url, timeout=deadline + 10, limits=httpx.Limits(max_connections=None)
    ) as client:
        right = [pixels((await request.send(client))[1].raise_for_status().content) for request in requests]
        rate = OVERLOAD * await per_second(client, requests, TOGETHER)
        print(f"     {rate:.1f} arrivals/s for {seconds:.0f} s")
        watching = asyncio.create_task(watch(client, tally))
        killing = asyncio.create_task(kill_after(seconds / 3))
        await arrive(client, requests, right, rate, seconds, tally)
        killed = await killing
        watching.cancel()
    print("     " + ", ".join(f"{count} {ending}" for ending, count in sorted(tally.endings.items())))
    return judge(tally, killed)


def judge(tally: Tally, killed: float) -> list[bool]:
    """Prints a verdict for each check."""
    held = [verdict(what, tally.endings[what], 0) for what in NEVER]
    held.append(verdict("requests waiting, at most", tally.queued, 16))
    settled = [size for at, size in tally.memory if at > killed + SETTLED_S]
    tenth = max(1, len(settled) // 10)
    growth = np.median(settled[-tenth:]) / np.median(settled[:tenth]) - 1
    held.append(verdict("growth of the replica's memory", float(growth), GROWTH))
    back = min(at for at, _ in tally.answered if at > killed + 1) - killed
    print(f"     first picture {back:.1f} s after the kill")
    before = [taken for at, taken in tally.answered if at < killed]
    after = [taken for at, taken in tally.answered if killed + RECOVERY_S < at < killed + 2 * RECOVERY_S]
    slower = float(np.median(after) / np.median(before)) if after else float("inf")
    held.append(verdict(f"median latency {RECOVERY_S:.0f} s after the kill over before", slower, 1.2, unit=" x"))
    return held


async def arrive(
    client: httpx.AsyncClient, requests: list[Request], right: list[bytes], rate: float, seconds: float, tally: Tally
) -> None:
    """Starts clients as a Poisson process; returns when the last one has its response."""
    rng, clients = np.random.default_rng(0), set()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        which, kind = int(rng.integers(len(requests))), rng.random()
        if kind < LEAVING:
            one = leave(client, requests[which], rng.uniform(0.05, 1.0), tally)
        elif kind < LEAVING + WRONG:
            one = send_invalid(client, requests[which], int(rng.integers(len(MISTAKES))), tally)
        else:
            one = send(client, requests[which], right[which], tally)
        clients.add(task := asyncio.create_task(one))
        task.add_done_callback(clients.discard)
        await asyncio.sleep(rng.exponential(1 / rate))
    await asyncio.gather(*clients)


async def send(client: httpx.AsyncClient, request: Request, right: bytes, tally: Tally) -> None:
    """Sends a valid request, which must return its image or an error of ours."""
    try:
        taken, answer = await request.send(client)
    except httpx.TimeoutException:
        tally.endings["hung"] += 1
        return
    except httpx.TransportError:
        tally.endings["unexpected"] += 1
        return
    if answer.status_code != 200:
        refuse(answer, tally)
        return
    tally.endings["pictures" if pixels(answer.content) == right else "wrong picture"] += 1
    tally.answered.append((time.monotonic(), taken))


async def leave(client: httpx.AsyncClient, request: Request, patience: float, tally: Tally) -> None:
    """Sends a request and disconnects after ``patience`` seconds, unless the response comes first."""
    try:
        async with asyncio.timeout(patience):
            await request.send(client)
    except TimeoutError:
        tally.endings["left"] += 1
        return
    tally.endings["answered before leaving"] += 1


MISTAKES: list[dict[str, str]] = [
    {"n": "99"},
    {"num_inference_steps": "-1"},
    {"size": "7x7"},
    {"guidance_scale": "nan"},
    {"no_such_field": "x"},
    {"seed": "much"},
]


async def send_invalid(client: httpx.AsyncClient, request: Request, mistake: int, tally: Tally) -> None:
    """Sends an invalid request, which must be refused."""
    wrong = Request(request.route, request.drawing, request.fields | MISTAKES[mistake])
    _, answer = await wrong.send(client)
    if answer.status_code == 200:
        tally.endings["unexpected"] += 1
    else:
        refuse(answer, tally)


def refuse(answer: httpx.Response, tally: Tally) -> None:
    """Counts an error response, and checks that it has the error envelope."""
    envelope = answer.headers.get("content-type", "").startswith("application/json")
    known = envelope and set(answer.json().get("error", {})) == {"message", "type", "param", "code"}
    if answer.status_code not in REFUSALS or not known:
        print(f"     not an envelope: {answer.status_code} {answer.text[:200]}")
        tally.endings["not an envelope"] += 1
    tally.endings[str(answer.status_code)] += 1


async def watch(client: httpx.AsyncClient, tally: Tally) -> None:
    """Records the length of the queue and the replica's memory every two seconds."""
    while True:
        answer = await client.get("/readyz")
        if answer.status_code == 200:
            tally.queued = max(tally.queued, answer.json()["queued"])
        tally.memory += [(time.monotonic(), resident(pid)) for pid in replicas()]
        await asyncio.sleep(2)


async def kill_after(seconds: float) -> float:
    """Sends SIGKILL to the replica after ``seconds``; returns the time of the kill."""
    await asyncio.sleep(seconds)
    os.kill(replicas()[0], signal.SIGKILL)
    return time.monotonic()


def replicas() -> list[int]:
    """Process ids of the replicas."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            named = process.name.isdigit() and b"ServeReplica:mmface:Replica" in (process / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if named:
            found.append(int(process.name))
    return found


def resident(pid: int) -> int:
    """Resident memory of a process in bytes; 0 if the process has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return 0


def pixels(picture: bytes) -> bytes:
    """The pixels of an image, without its metadata."""
    return Image.open(BytesIO(picture)).convert("RGB").tobytes()


if __name__ == "__main__":
    main()
