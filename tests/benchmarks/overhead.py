"""Measures the overhead of jobs: a stage with Ray Data, parts and manifest against the bare stage on the same rows.

Both start a process, import, load the networks and read the same rows with one thread. The bare stage discards its
result; the job also journals, writes, checksums and publishes. Ray is started before the measurement. The two take
turns. With ``--together 1`` they run at the same time with one CPU each, so that other load on the machine affects
both; driver and worker of the job then share a CPU, which matters for short stages.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mmface.config import Recipe
from mmface.datasets.stage import Row
from mmface.store import Store
from tests.benchmarks._common import finish, folder, identity_of, parse, pictures, recipe_of, run_job, settings, verdict

LIMIT = 0.15


def main() -> None:
    given = parse(__doc__, images=2000, side=512, shard=64, together=0)
    with folder(given.home) as place:
        options = settings(pictures(place, given.images, given.side), f"data.shard_rows={given.shard}")
        ours, theirs = processors(bool(given.together))
        os.sched_setaffinity(0, ours)  # processes that Ray starts inherit it
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray's spelling; the niceness of the bare process
        from ray_jobs.shared.job import connect_ray

        connect_ray()
        home, made, held = Store(place / "home"), {}, []
        for stage in given.stages.split(","):
            task = json.dumps({"stage": stage, "options": options, "home": home.uri, "made": made})
            with ThreadPoolExecutor() as pool:
                plain = pool.submit(bare, task, theirs)
                if ours == theirs:
                    plain.result()
                start = time.perf_counter()
                run_job(stage, home, options, made)
                whole = time.perf_counter() - start
            print(f"     {stage}: bare {plain.result():.1f} s, orchestrated {whole:.1f} s over {given.images} pictures")
            held.append(verdict(f"{stage}: overhead", whole / plain.result() - 1, LIMIT))
    finish(held)


def processors(together: bool) -> tuple[set[int], set[int]]:
    """CPUs for the job and for the bare stage: one each if both run at the same time, otherwise all for both."""
    there = os.sched_getaffinity(0)
    return ({max(there)}, {min(there)}) if together else (there, there)


def bare(task: str, where: set[int]) -> float:
    """Runs the bare stage in a new process; returns its seconds."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "tests.benchmarks.overhead", "--bare", task]
    process = subprocess.Popen(command)
    os.sched_setaffinity(process.pid, where)
    if process.wait():
        raise RuntimeError("the bare stage failed")
    return time.perf_counter() - start


def do_bare(task: dict[str, Any]) -> None:
    """Runs the bare stage in this process."""
    import torch

    torch.set_num_threads(1)
    recipe = recipe_of(task["options"])
    call = make(task["stage"], recipe)
    for rows in batches(task["stage"], recipe, Store(task["home"]), task["made"]):
        call(rows)


def make(stage: str, recipe: Recipe) -> Any:
    """Builds the stage."""
    if stage == "images":
        from mmface.data.sources.images import Images

        return Images(recipe.sources, recipe.data)
    if stage == "conditions":
        from mmface.data.conditions import Conditions

        return Conditions(recipe)
    if stage == "captions":
        from mmface.data.captions import Captions

        return Captions(recipe)
    if stage == "text":
        from mmface.data.text import Text

        return Text(recipe)
    from mmface.data.latents import Latents

    return Latents(recipe, recipe.resolutions[0])


def batches(stage: str, recipe: Recipe, home: Store, made: dict[str, str]) -> Iterator[list[Row]]:
    """The stage's input rows, part by part."""
    if stage == "images":
        from mmface.data.sources.layouts import list_collections

        images = make(stage, recipe)
        rows = [images.row(file) for listing in list_collections(recipe.sources) for file in listing.files]
        size = recipe.data.shard_rows
        yield from (rows[start : start + size] for start in range(0, len(rows), size))
        return
    from mmface.datasets.dataset import open_dataset
    from mmface.datasets.parts import join_parts, part_names

    inputs = [open_dataset(uri) for uri in identity_of(stage, recipe, home, made).inputs.values()]
    yield from (join_parts(inputs, part) for part in part_names(inputs[0]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bare"]:
        do_bare(json.loads(sys.argv[2]))
    else:
        main()
