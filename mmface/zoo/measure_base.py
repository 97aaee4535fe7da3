"""Measures ``zoo:base`` on held-out portraits, as a model of the recipe ``demo`` is measured."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from mmface.bundles.bundle import build_pipeline
from mmface.config.load import load_recipe
from mmface.datasets.records import SCORES
from mmface.evaluate.deciding.summary import summarise
from mmface.evaluate.evalset import pin_row, requests
from mmface.evaluate.measuring.measures import measures
from mmface.evaluate.measuring.score import Score
from mmface.evaluate.paint import Paint
from mmface.evaluate.scores import Scores
from mmface.zoo.drawn import HELD_OUT_SEED, SIZE
from mmface.zoo.stream import Stream

SHOWN = ("mask/miou", "mask/accuracy", "mask/hair_colour_accuracy", "mask/kid_zoo-parser", "sketch/edge_agreement")


def measure_base(folder: Path, n: int = 128) -> dict[str, float]:
    """Figures of the transformer in ``folder`` by name: painted from ``n`` masks and ``n`` sketches.

    Args:
        n: number of held-out portraits.
    """
    recipe = load_recipe("demo", [f"phases=[{{resolution: {SIZE}, steps: 1}}]"])
    rows = [
        pin_row({**row, "perceptual_hash": ""}, ("mask", "sketch")) for row in Stream(recipe).drawn(HELD_OUT_SEED, n)
    ]
    asked = {one["id"]: one for row in rows for one in requests(row)}
    painted = Paint(recipe, build_pipeline(recipe, folder))(list(asked.values()))
    drawings = ({name: asked[one["id"]][name] for name in ("mask", "sketch")} for one in painted)
    scored = Score(recipe)([{**one, **given} for one, given in zip(painted, drawings, strict=True)])
    scores = Scores(pa.Table.from_pylist(scored, schema=SCORES), measures(recipe), SIZE, "portraits")
    found = {one.name: one.value for one in summarise(scores) if one.value is not None}
    return {f"base {name}": found[name] for name in SHOWN}
