"""Paints and measures held-out rows with tiny random networks."""

from __future__ import annotations

import hashlib
import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from mmface.config import Evaluate, Recipe
from mmface.data.conditions import grey_png
from mmface.datasets.records import SAMPLES
from mmface.evaluate.metric_names import FrechetName
from mmface.evaluate.paint import Paint, choose_prompt, plan, seed_of
from mmface.evaluate.summary import summarise
from mmface.imaging.labels import mask_from_png, mask_to_png


def _row(i: int) -> dict[str, Any]:
    """A row with a 40 x 40 photograph whose upper half is red hair."""
    rng = np.random.default_rng(i)
    pixels = rng.integers(0, 255, (40, 40, 3), np.uint8)
    pixels[:20] = (168, 70, 32)
    mask = np.ones((40, 40), np.uint8)
    mask[:20] = 13
    sink = BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return {
        "id": hashlib.sha256(sink.getvalue()).hexdigest(),
        "image": sink.getvalue(),
        "mask": mask_to_png(mask),
        "sketch": grey_png(rng.integers(0, 255, (40, 40), np.uint8)),
        "captions": ["a person with glasses", "a person with short red hair"],
        "hair_colour": "red",
    }


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return [_row(i) for i in range(4)]


@pytest.fixture(scope="module")
def painter(tiny_recipe: Recipe, tiny_transformer: Path) -> Paint:
    return Paint(tiny_recipe, tiny_transformer)


@pytest.fixture(scope="module")
def samples(painter: Paint, rows: list[dict[str, Any]], tiny_recipe: Recipe) -> pa.Table:
    return pa.Table.from_pylist(painter(plan(rows, tiny_recipe.evaluate)), schema=SAMPLES)


def test_the_plan_is_the_first_rows_by_id_in_any_order(rows: list[dict[str, Any]]) -> None:
    evaluate = Evaluate(n=3, n_sketch=2)
    planned = [(row["modality"], row["id"]) for row in plan(reversed(rows), evaluate)]
    ids = sorted(row["id"] for row in rows)
    assert planned == [
        *(("mask", one) for one in ids[:3]),
        *((kind, one) for kind in ("sketch", "unconditional") for one in ids[:2]),
    ]


def test_the_prompt_is_a_caption_that_names_the_hair_colour() -> None:
    assert choose_prompt(["glasses", "a man with grey hair"]) == "a man with grey hair"
    assert choose_prompt(["glasses", "a hat"]) == "glasses"


def test_seeds_are_valid_for_the_service() -> None:
    assert all(0 <= seed_of(str(i)) < 2**31 for i in range(100))


def test_samples_contain_images_conditions_and_metrics(samples: pa.Table) -> None:
    found = samples.to_pylist()
    assert [row["modality"] for row in found] == ["mask"] * 3 + ["sketch"] * 2 + ["unconditional"] * 2
    for row in found:
        for column in ("generated", "source", "condition"):
            assert Image.open(BytesIO(row[column])).size == (32, 32)
        figures = dict(row["metrics"])
        assert all(math.isfinite(value) for value in figures.values())
        assert {"miou", "clip_score", "clip_distance", "lpips_parser", "ssim", "edge_agreement"} <= figures.keys()
        assert figures["source_hair_colour_accuracy"] == 1
    assert np.array_equal(np.unique(mask_from_png(found[0]["condition"])), [1, 13])


def test_an_image_depends_on_its_own_row_only(
    samples: pa.Table, painter: Paint, rows: list[dict[str, Any]], tiny_recipe: Recipe
) -> None:
    last = plan(rows, tiny_recipe.evaluate)[2]
    alone = painter([last])[0]
    together = samples.to_pylist()[2]
    assert alone["id"] == together["id"]
    difference = np.asarray(Image.open(BytesIO(alone["generated"])), int) - np.asarray(
        Image.open(BytesIO(together["generated"])), int
    )
    assert np.abs(difference).max() <= 1  # matrix products of another batch size may round differently


def test_the_summary_names_extractors_counts_and_the_baseline(samples: pa.Table, tiny_recipe: Recipe) -> None:
    figures = summarise(samples, tiny_recipe, "clip:0123456789abcdef")
    assert figures["mask/n"] == figures["mask/hair_colour_n"] == 3
    assert figures["sketch/n"] == 2
    ids = samples["image_id"].to_pylist()
    for kind, rows in (("mask", ids[:3]), ("sketch", ids[3:5]), ("unconditional", ids[5:])):
        name = FrechetName.of("clip", "clip:0123456789abcdef", 32, rows)
        assert [metric for metric in figures if metric.startswith(f"{kind}/frechet")] == [f"{kind}/{name}"]
        assert figures[f"{kind}/{name}"] >= 0
    assert figures["sketch/edge_agreement_baseline"] == figures["unconditional/edge_agreement"]
    gain = figures["sketch/edge_agreement"] - figures["unconditional/edge_agreement"]
    assert figures["sketch/edge_agreement_gain"] == pytest.approx(gain)
    per_row = [dict(row["metrics"])["miou"] for row in samples.to_pylist()[:3]]
    assert figures["mask/miou"] == pytest.approx(sum(per_row) / 3)
    assert all(math.isfinite(value) for value in figures.values())


def test_one_value_that_is_not_finite_makes_the_mean_nan(samples: pa.Table, tiny_recipe: Recipe) -> None:
    rows = samples.to_pylist()
    rows[0]["metrics"] = [(name, math.nan) for name, _ in rows[0]["metrics"]]
    assert math.isnan(summarise(pa.Table.from_pylist(rows, schema=SAMPLES), tiny_recipe, "")["mask/miou"])
