"""What the comparison of photographs finds among drawn portraits, with the zoo's CLIP: run it as a module.

Prints how often batches like the training set are called a difference, and the verdict on batches that were changed.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from mmface.config import Recipe
from mmface.config.load import load_recipe
from mmface.data.embeddings import Features
from mmface.data.portraits import write_collection
from mmface.evaluate.drift import Drift, compare
from tests.benchmarks._common import finish

SIDE, LEARNT, NEW = 128, 300, 100
ROUNDS, BATCH = 200, 60
ALARMS = 0.025  # most of the rounds without drift that may be called a difference: 5 of 200 at level 0.99

Change = Callable[[Image.Image], Image.Image]
CHANGES: dict[str, Change] = {
    "unchanged": lambda image: image,
    "mirrored left to right": ImageOps.mirror,
    "brightness 0.95": lambda image: ImageEnhance.Brightness(image).enhance(0.95),
    "brightness 0.8": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    "brightness 0.5": lambda image: ImageEnhance.Brightness(image).enhance(0.5),
    "red and blue exchanged": lambda image: Image.merge("RGB", image.split()[::-1]),
    "grey": lambda image: ImageOps.grayscale(image).convert("RGB"),
}
# Nothing is expected of the small changes: drawn portraits are almost symmetric.
EXPECTED = {
    "unchanged": "not drifted",
    "brightness 0.5": "drifted",
    "red and blue exchanged": "drifted",
    "grey": "drifted",
}


def embed(stage: Features, files: list[Path], change: Change) -> NDArray[np.float32]:
    rows = []
    for file in files:
        sink = io.BytesIO()
        change(Image.open(file).convert("RGB")).save(sink, "PNG")
        rows.append({"id": file.stem, "split": "train", "source": "", "perceptual_hash": "", "image": sink.getvalue()})
    return np.stack([np.frombuffer(row["features"], "<f4") for row in stage(rows).rows])


def told(found: Drift) -> str:
    needed = f"; {found.needed} rows would do" if found.needed else ""
    return f"{found.verdict:12}  distance {found.distance:8.4f}  p {found.p_value:.4f}  n {found.n}{needed}"


def main() -> None:
    recipe: Recipe = load_recipe("demo", [f"phases=[{{resolution: {SIDE}, steps: 1}}]"])
    limits = recipe.drift.level, recipe.drift.min_distance
    with tempfile.TemporaryDirectory() as folder:
        write_collection(Path(folder), LEARNT + NEW, SIDE, 0)
        files = sorted((Path(folder) / "images").iterdir())
        stage = Features(recipe)
        started = time.monotonic()
        learnt = embed(stage, files[:LEARNT], CHANGES["unchanged"])
        print(f"embedded {LEARNT} portraits of {SIDE} px in {time.monotonic() - started:.1f} s")
        held: list[bool] = []
        for name, change in CHANGES.items():
            new = embed(stage, files[LEARNT:], change)
            started = time.monotonic()
            found = compare(new, learnt, *limits)
            took = time.monotonic() - started
            expected = EXPECTED.get(name)
            verdict = "" if expected is None else "PASS" if found.verdict == expected else "FAIL"
            held.append(verdict != "FAIL")
            print(f"{name:24} {told(found)}  {took:.1f} s  {verdict}", flush=True)
            if name == "red and blue exchanged":
                for count in (5, 10, 20, 50):
                    print(f"{'':24} {told(compare(new[:count], learnt, *limits))}")
        random, drawn = np.random.default_rng(1), Counter[str]()
        p_values = []
        for _ in range(ROUNDS):
            order = random.permutation(LEARNT)
            found = compare(learnt[order[:BATCH]], learnt[order[BATCH : 3 * BATCH]], *limits)
            p_values.append(found.p_value)
            drawn[found.verdict] += 1
        alarms = float(np.mean(np.array(p_values) <= 1 - limits[0] + 1e-12))
        held.append(alarms <= ALARMS and not drawn["drifted"])
        verdict = "PASS" if held[-1] else "FAIL"
        print(f"{ROUNDS} batches without drift: p at most 0.01 in {alarms:.1%}, {dict(drawn)}  {verdict}")
    finish(held)


if __name__ == "__main__":
    main()
