"""Scores drawn portraits end to end: time against the bare computation, memory over many rows, results over actors.

The "generated" images are the portraits under another light, so no model paints. Every run is a process of its own. The
work of the stage is compared with the bare computation in one process, with one thread and in CPU seconds, so that a
busy machine does not count; peak memory is the kernel's ``VmHWM``. ``--many 0`` leaves the comparison of memory out.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from mmface import plan
from mmface.config import Recipe
from mmface.data.conditions import grey_png
from mmface.data.portraits import draw
from mmface.datasets.dataset import Publisher, open_dataset
from mmface.datasets.parts import DATA, commit
from mmface.datasets.records import EVALSET, SAMPLES
from mmface.datasets.tally import reconcile
from mmface.imaging.labels import mask_to_png
from mmface.store import Store
from tests.benchmarks._common import finish, folder, parse, recipe_of, verdict
from tests.benchmarks.memory import SECONDS, workers

MINUTES, RATIO, GROWTH, MEANS = 3.0, 1.15, 1.15, 1e-6
PART = 32
DRAWN = 1000  # portraits that are drawn; more rows show them under more lights


def main() -> None:
    given = parse(__doc__, few=1000, many=10000, actors=3, size=128)
    held = []
    with folder(given.home) as place:
        made = {count: prepare(place, count, given.size) for count in {given.few, given.many} - {0}}
        few = made[given.few]
        alone = child("--bare", {**few, "size": given.size})
        costs = ", ".join(f"{name} {alone[name]:.1f} s" for name in ("whole", "bare"))
        print(f"     {given.few} pictures in one process, CPU time: {costs}", flush=True)
        held += [
            verdict("the stage's work over the bare computation", alone["whole"] / alone["bare"], RATIO, unit=" x")
        ]
        runs = {n: child("--driver", {**few, "size": given.size, "workers": n}) for n in range(1, given.actors + 1)}
        many = child("--driver", {**made[given.many], "size": given.size, "workers": 1}) if given.many else None
        for n, run in runs.items():
            told = ", ".join(f"{name} {run[name]:.1f} s" for name in ("ray", "scoring", "figures"))
            print(f"     {given.few} pictures on {n} actors: {told}")
        two = runs[min(2, given.actors)]
        held += [
            verdict(f"{given.few} pictures on 2 cores", (two["scoring"] + two["figures"]) / 60, MINUTES, unit=" min")
        ]
        held += identical(list(runs.values()))
        if many is not None:
            for who in ("driver", "worker"):
                sizes = {given.few: runs[1][who], given.many: many[who]}
                print(f"     {who}: " + ", ".join(f"{peak / 1024:.0f} MiB over {n} rows" for n, peak in sizes.items()))
                held += [verdict(f"{who}: peak memory", many[who] / runs[1][who], GROWTH, unit=" x")]
    finish(held)


def identical(runs: list[dict[str, Any]]) -> list[bool]:
    """Compares the scores of each run with those of the first."""
    first, *others = (open_dataset(run["uri"]).table().sort_by("id") for run in runs)
    held = []
    for number, other in enumerate(others, 2):
        counts = sum(first[name] != other[name] for name in ("id", "hit", "given", "found"))
        held += [verdict(f"columns of counts that differ, {number} actors", counts, 0)]
        left, right = (means(table) for table in (first, other))
        assert left.keys() == right.keys()
        held += [
            verdict(f"largest difference of a mean, {number} actors", max(abs(left[k] - right[k]) for k in left), MEANS)
        ]
    return held


def means(table: Any) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for pairs in table["metrics"].to_pylist():
        for name, value in pairs:
            values.setdefault(name, []).append(value)
    return {name: float(np.mean(of)) for name, of in values.items()}


def recipe_for(size: int, actors: int = 1) -> Recipe:
    phase = f"phases=[{{resolution: {size}, steps: 1, batch_size: 1}}]"
    return recipe_of([phase, f"data.workers={actors}"])


def child(mode: str, task: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.scoring", mode, json.dumps(task)]
    answer: dict[str, Any] = json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1]
    )
    return answer


def prepare(place: Path, count: int, size: int) -> dict[str, Any]:
    """Publishes an evaluation set of ``count`` portraits, and their images under another light as samples."""
    recipe, home = recipe_for(size), Store(place / f"samples-{count}-{size}")
    evalset = Publisher(home, plan.evalset(recipe))
    samples = Publisher(home, plan.samples_of_bundle(recipe, "drawn", evalset.store.uri))
    if not samples.store.exists("manifest.json"):
        drawn: dict[int, Any] = {}
        names = []
        for start in range(0, count, PART):
            rows = [row(i, size, drawn) for i in range(start, min(count, start + PART))]
            name = f"part-{start // PART:05d}"
            commit(evalset.store, f"{DATA}/{name}.parquet", [one for one, _ in rows], EVALSET)
            commit(samples.store, f"{DATA}/{name}-mask.parquet", [one for _, one in rows], SAMPLES)
            names.append(name)
        for publisher, ending in ((evalset, ""), (samples, "-mask")):
            tally = reconcile(publisher, [f"{name}{ending}.parquet" for name in names])
            publisher.publish(tally.counts, files=tally.files)
    return {"home": str(place), "samples": samples.store.uri, "evalset": evalset.store.uri, "count": count}


def row(number: int, size: int, drawn: dict[int, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The row of the evaluation set and the sample of a number."""
    which = number % DRAWN
    if which not in drawn:
        drawn[which] = draw(which, size)
    portrait = drawn[which]
    light = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    lit = 0.7 * portrait.image + 0.3 * np.asarray(Image.fromarray(light).resize((size, size)), np.float32)
    edges = Image.fromarray(portrait.image).convert("L").filter(ImageFilter.FIND_EDGES)
    source, sketch = png(portrait.image), grey_png(255 - np.asarray(edges))
    name, mask, prompt = f"{number:06d}", mask_to_png(portrait.mask), portrait.captions[0]
    pinned = {"id": name, "source": "drawn", "perceptual_hash": "0" * 16, "image": source, "mask": mask}
    pinned |= {"sketch": sketch, "captions": [prompt], "prompt": prompt, "seed": number, "modalities": ["mask"]}
    sample = {"id": f"{name}-mask", "image_id": name, "modality": "mask", "prompt": prompt, "seed": number}
    sample |= {"condition": mask, "generated": png(lit.astype(np.uint8)), "source": source}
    return {**pinned, "mask_origin": "drawn"}, sample


def png(pixels: np.ndarray) -> bytes:
    sink = BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def drive(task: dict[str, Any]) -> dict[str, Any]:
    """Runs the job of the stage in this process and its actors; returns seconds and peak memory."""
    from mmface.evaluate.deciding.summary import summarise
    from mmface.evaluate.scores import Scores
    from ray_jobs import scores
    from ray_jobs.shared.job import connect_ray

    seen: dict[int, int] = {}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(SECONDS):
            seen.update(workers())

    started = time.perf_counter()
    connect_ray()
    ready = time.perf_counter()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    home = f"{task['home']}/scores-{task['count']}-{task['workers']}"
    arguments = ["--recipe", "demo", "--home", home, "--inputs", f"samples={task['samples']}"]
    arguments += ["--inputs", f"evalset={task['evalset']}", "--set", f"data.workers={task['workers']}"]
    arguments += ["--set", f"phases=[{{resolution: {task['size']}, steps: 1, batch_size: 1}}]"]
    uri = scores.main(arguments)
    scored = time.perf_counter()
    over.set()
    thread.join()
    driver = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if task["count"] <= DRAWN:  # figures of a set hold its features, so they grow with it
        summarise(Scores.of(open_dataset(uri)))
    figures = time.perf_counter() - scored
    memory = {"driver": driver, "worker": max(seen.values(), default=0)}
    return {"uri": uri, "ray": ready - started, "scoring": scored - ready, "figures": figures, **memory}


def bare(task: dict[str, Any]) -> dict[str, Any]:
    """CPU seconds of the stage's work on every part, files included, and of networks and metrics alone."""
    import torch

    from ray_jobs.scores import Scorer

    torch.set_num_threads(1)
    recipe = recipe_for(task["size"])
    identity = plan.scores(recipe, task["samples"], task["evalset"])
    scorer = Scorer(identity, Store(f"{task['home']}/scores-{task['count']}-alone"), recipe)
    samples, evalset = (open_dataset(task[name]) for name in ("samples", "evalset"))
    whole = alone = 0.0
    for part in samples.parts():
        name = part.path.rpartition("/")[2]
        begun = time.process_time()
        scorer.run(name)
        whole += time.process_time() - begun
        drawings = evalset.part(part.path.replace("-mask", ""), ["mask", "sketch"]).to_pylist()
        alone += compute(scorer.score, samples.part(part.path).to_pylist(), drawings, task["size"])
    return {"whole": whole, "bare": alone}


def compute(score: Any, rows: list[dict[str, Any]], drawings: list[dict[str, Any]], size: int) -> float:
    """CPU seconds of networks and metrics on decoded images that lie in memory."""
    import torch

    from mmface.evaluate.inputs import read_drawings
    from mmface.evaluate.measuring import metrics
    from mmface.imaging.pixels import to_tensor

    judges, seconds = score.judges, 0.0
    masks, sketches = read_drawings(drawings, size)
    images = [[Image.open(BytesIO(one[name])).convert("RGB") for one in rows] for name in ("generated", "source")]
    for start in range(0, len(rows), 16):
        batch = slice(start, start + 16)
        generated, sources = (of[batch] for of in images)
        drawn, real = (torch.stack([to_tensor(one, size) for one in of]) for of in (generated, sources))
        given = torch.from_numpy(masks[batch])
        begun = time.process_time()
        seen, source = judges.look(generated), judges.look(sources)
        texts = judges.read([one["prompt"] for one in rows[batch]])
        for one in (seen, source):
            metrics.mask_iou(metrics.label_counts(one.labels, given))
            metrics.clip_score(one.embeddings, texts)
        metrics.cosine(seen.embeddings, source.embeddings)
        metrics.feature_distance(seen.stages, source.stages)
        metrics.ssim(drawn, real)
        metrics.ms_ssim(drawn, real)
        metrics.edge_agreement(judges.draw(generated), sketches[batch])
        for i in range(len(generated)):
            metrics.hair_word(drawn[i], given[i])
            metrics.hair_word(real[i], given[i])
        seconds += time.process_time() - begun
    return seconds


if __name__ == "__main__":
    modes = {"--driver": drive, "--bare": bare}
    if sys.argv[1:2] and sys.argv[1] in modes:
        print(json.dumps(modes[sys.argv[1]](json.loads(sys.argv[2]))))
    else:
        main()
