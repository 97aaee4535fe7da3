"""Paints and measures evaluation sets of any size for the gate's benchmark: drawn portraits that nobody trained on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from mmface.bundles.bundle import build_pipeline
from mmface.config import Recipe
from mmface.config.load import load_recipe
from mmface.data.conditions import Sketcher, grey_png
from mmface.data.portraits import draw
from mmface.datasets.records import SCORES
from mmface.evaluate.evalset import choose_prompt, requests
from mmface.evaluate.measuring.measures import measures
from mmface.evaluate.measuring.score import Score
from mmface.evaluate.paint import Paint
from mmface.evaluate.scores import Scores
from mmface.imaging.labels import mask_to_png
from mmface.train.checkpoints.state import TRANSFORMER

UNSEEN = 1_000_000  # seed of the first portrait; the demo trains on the first thousand
BATCH = 16


@dataclass(frozen=True)
class Task:
    """One system on rows ``first`` … ``first + n`` with the seeds of ``draw``; its scores are kept in ``file``."""

    recipe: str  # path of the recipe
    model: str  # folder with ``transformer/``
    first: int
    n: int
    draw: int
    file: str


def scores_of(tasks: Sequence[Task]) -> list[Scores]:
    """The scores of all tasks; those that ``file`` has are read, the others painted and measured in processes."""
    todo = [task for task in tasks if not Path(task.file).exists()]
    with ProcessPoolExecutor(min(len(todo), os.cpu_count() or 1) or 1, get_context("spawn")) as pool:
        for number, task in enumerate(pool.map(paint, todo), 1):
            print(f"     {number} of {len(todo)}: {Path(task.file).stem}", flush=True)
    return [read(task) for task in tasks]


def read(task: Task) -> Scores:
    """The scores of a finished task."""
    recipe = load_recipe(task.recipe)
    return Scores(pq.read_table(task.file), measures(recipe), recipe.phases[-1].resolution, f"{task.first}-{task.n}")


def paint(task: Task) -> Task:
    """Paints and measures the rows of a task."""
    torch.set_num_threads(1)
    recipe, painter, judge = _loaded(task.recipe, task.model)
    rows = [
        request for number in range(task.n) for request in requests(portrait(recipe, task.first + number, task.draw))
    ]
    known = {row["id"]: row for row in rows}
    scored: list[dict[str, Any]] = []
    for start in range(0, len(rows), BATCH):
        samples = painter(rows[start : start + BATCH])
        scored += judge([{**{name: known[one["id"]][name] for name in ("mask", "sketch")}, **one} for one in samples])
    scratch = Path(task.file).with_suffix(f".{os.getpid()}")
    scratch.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(scored, schema=SCORES), scratch)
    scratch.replace(task.file)
    return task


def portrait(recipe: Recipe, number: int, draw_number: int) -> dict[str, Any]:
    """A row of an evaluation set: a portrait with its mask, its sketch and the seed of a draw."""
    drawn = draw(UNSEEN + number, size=recipe.phases[-1].resolution)
    picture = Image.fromarray(drawn.image)
    sink = BytesIO()
    picture.save(sink, "PNG")
    name = hashlib.sha256(sink.getvalue()).hexdigest()
    seed = int.from_bytes(hashlib.sha256(f"{name}-{draw_number}".encode()).digest()[:4], "big") >> 1
    return {
        "id": name,
        "image": sink.getvalue(),
        "mask": mask_to_png(drawn.mask),
        "sketch": grey_png(_sketcher(recipe.components.sketcher)([picture])[0]),
        "prompt": choose_prompt(drawn.captions),
        "seed": seed,
        "modalities": ["mask"],
    }


@lru_cache(maxsize=2)
def _loaded(recipe: str, model: str) -> tuple[Recipe, Paint, Score]:
    loaded = load_recipe(recipe)
    return loaded, Paint(loaded, build_pipeline(loaded, Path(model) / TRANSFORMER)), Score(loaded)


@lru_cache(maxsize=1)
def _sketcher(name: str) -> Sketcher:
    return Sketcher(name, "cpu")
