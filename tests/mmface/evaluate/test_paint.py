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

from mmface.bundles.bundle import build_pipeline
from mmface.config import Evaluate, Recipe
from mmface.data.conditions import grey_png
from mmface.datasets.records import SAMPLES, SCORES
from mmface.evaluate.deciding.summary import flat, summarise
from mmface.evaluate.evalset import choose_prompt, choose_rows, pin_row, requests, seed_of
from mmface.evaluate.measuring.measures import measures
from mmface.evaluate.measuring.score import Score
from mmface.evaluate.paint import Paint
from mmface.evaluate.scores import Scores
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
def asked(rows: list[dict[str, Any]], tiny_recipe: Recipe) -> list[dict[str, Any]]:
    """The requests of an evaluation set of these rows, with masks first."""
    chosen = choose_rows((row["id"] for row in rows), tiny_recipe.evaluate)
    pinned = [pin_row(row, chosen[row["id"]]) for row in sorted(rows, key=lambda row: row["id"]) if row["id"] in chosen]
    return sorted((one for row in pinned for one in requests(row)), key=lambda row: row["modality"])


@pytest.fixture(scope="module")
def painter(tiny_recipe: Recipe, tiny_transformer: Path) -> Paint:
    return Paint(tiny_recipe, build_pipeline(tiny_recipe, tiny_transformer))


@pytest.fixture(scope="module")
def samples(painter: Paint, asked: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(painter(asked), schema=SAMPLES)


@pytest.fixture(scope="module")
def scored(samples: pa.Table, asked: list[dict[str, Any]], tiny_recipe: Recipe) -> pa.Table:
    drawings = {row["id"]: {name: row[name] for name in ("mask", "sketch")} for row in asked}
    rows = Score(tiny_recipe)([{**drawings[row["id"]], **row} for row in samples.to_pylist()])
    return pa.Table.from_pylist(rows, schema=SCORES)


def scores_of(table: pa.Table, recipe: Recipe) -> Scores:
    return Scores(table, measures(recipe), 32, "any")


def test_the_set_is_the_first_rows_by_id_in_any_order(rows: list[dict[str, Any]]) -> None:
    ids = sorted(row["id"] for row in rows)
    chosen = choose_rows(reversed(ids), Evaluate(n=3, n_sketch=2))
    assert chosen == {
        ids[0]: ["mask", "sketch", "unconditional"],
        ids[1]: ["mask", "sketch", "unconditional"],
        ids[2]: ["mask"],
    }


def test_the_prompt_is_a_caption_that_names_the_hair_colour() -> None:
    assert choose_prompt(["glasses", "a man with grey hair"]) == "a man with grey hair"
    assert choose_prompt(["glasses", "a hat"]) == "glasses"


def test_seeds_are_valid_for_the_service() -> None:
    assert all(0 <= seed_of(str(i)) < 2**31 for i in range(100))


def test_samples_contain_the_request_and_the_result(samples: pa.Table) -> None:
    found = samples.to_pylist()
    assert [row["modality"] for row in found] == ["mask"] * 3 + ["sketch"] * 2 + ["unconditional"] * 2
    for row in found:
        for column in ("generated", "source", "condition"):
            assert Image.open(BytesIO(row[column])).size == (32, 32)
        assert row["id"] == f"{row['image_id']}-{row['modality']}"
        assert row["seed"] == seed_of(row["image_id"])
    assert np.array_equal(np.unique(mask_from_png(found[0]["condition"])), [1, 13])


def test_scores_measure_images_and_photographs(scored: pa.Table) -> None:
    for row in scored.to_pylist():
        figures = dict(row["metrics"])
        assert all(math.isfinite(value) for value in figures.values())
        assert {"miou", "clip_score", "clip_distance", "lpips_parser", "ssim", "edge_agreement"} <= figures.keys()
        assert figures["source_hair_colour_accuracy"] == 1
        assert dict(row["groups"]) == {"hair": "red", "glasses": "no"} | {
            name: value for name, value in row["groups"] if name == "skin tone"
        }


def test_an_image_depends_on_its_own_row_only(samples: pa.Table, painter: Paint, asked: list[dict[str, Any]]) -> None:
    alone = painter([asked[2]])[0]
    together = samples.to_pylist()[2]
    assert alone["id"] == together["id"]
    difference = np.asarray(Image.open(BytesIO(alone["generated"])), int) - np.asarray(
        Image.open(BytesIO(together["generated"])), int
    )
    assert np.abs(difference).max() <= 1  # matrix products of another batch size may round differently


def test_the_summary_has_means_counts_and_the_baseline(scored: pa.Table, tiny_recipe: Recipe) -> None:
    figures = flat(summarise(scores_of(scored, tiny_recipe)))
    assert figures["mask/n"] == figures["mask/hair_colour_n"] == 3
    assert figures["sketch/n"] == 2
    assert figures["sketch/edge_agreement_baseline"] == figures["unconditional/edge_agreement"]
    gain = figures["sketch/edge_agreement"] - figures["unconditional/edge_agreement"]
    assert figures["sketch/edge_agreement_gain"] == pytest.approx(gain)
    per_row = [dict(row["metrics"])["miou"] for row in scored.to_pylist()[:3]]
    assert figures["mask/miou"] == pytest.approx(sum(per_row) / 3)
    assert all(math.isfinite(value) for value in figures.values())


def test_one_value_that_is_not_finite_makes_the_mean_nan(scored: pa.Table, tiny_recipe: Recipe) -> None:
    rows = scored.to_pylist()
    rows[0]["metrics"] = [(name, math.nan) for name, _ in rows[0]["metrics"]]
    broken = scores_of(pa.Table.from_pylist(rows, schema=SCORES), tiny_recipe)
    assert math.isnan(flat(summarise(broken))["mask/miou"])
