"""Errors and warnings for collections that are too small, with the counts and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.steps.line import check_rows
from mmface.config import Recipe
from mmface.config.load import parse_recipe
from mmface.data.shortages import SPLITS, shortages
from mmface.datasets.dataset import Publisher, open_dataset
from mmface.datasets.manifest import Identity
from mmface.datasets.parts import commit
from mmface.datasets.records import IMAGES
from mmface.errors import StageError
from mmface.store import Store

NONE_HELD_OUT = (
    r"0 of 4 photographs are held out, so no model can be evaluated; "
    r"raise data.holdout \(0.15\), name some in a list test.txt, or add photographs"
)


def published(home: Path, train: int, test: int, counted: bool = True) -> str:
    publisher = Publisher(Store(home), Identity(stage="images", version=2, config={"n": [train, test]}))
    splits = ["train"] * train + ["test"] * test
    rows = [{"id": str(i), "split": split, "origin": b"0" * 32} for i, split in enumerate(splits)]
    commit(publisher.store, "data/part-00000.parquet", rows, IMAGES)
    return publisher.publish({}, extra={SPLITS: {"train": train, "test": test}} if counted else {})


def recipe(batch_size: int = 4, views: int = 1) -> Recipe:
    phases = [{"resolution": 32, "steps": 1, "batch_size": size} for size in (2, batch_size)]
    return parse_recipe({"name": "small", "phases": phases, "data": {"views": views}})


@pytest.mark.parametrize("counted", [True, False], ids=["counts in the manifest", "manifest of an earlier release"])
def test_shortages_are_reported_with_counts_and_the_fix(tmp_path: Path, counted: bool):
    def found(train: int, test: int, like: Recipe) -> dict[str, str]:
        images = open_dataset(published(tmp_path / f"{train}-{test}", train, test, counted))
        return {shortage.of: shortage.message for shortage in shortages(images, like)}

    assert found(4, 1, recipe()) == {}
    assert found(2, 1, recipe(views=2)) == {}
    assert list(found(0, 3, recipe())) == ["train"]
    assert found(0, 3, recipe())["train"].startswith("0 of 3 photographs are left to train on; lower data.holdout")
    assert found(3, 1, recipe()) == {
        "batch": "3 training rows are fewer than phases.1.batch_size 4, so that each step repeats some; "
        "lower it, raise data.views, or add photographs"
    }
    assert list(found(4, 0, recipe())) == ["test"]


def test_a_run_that_evaluates_fails_when_no_row_is_held_out(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    uri = published(tmp_path, 4, 0)
    with pytest.raises(StageError, match=f"^images: {NONE_HELD_OUT}$"):
        check_rows(recipe(), uri, ("train", "test"))
    check_rows(recipe(), uri, ("train",))
    assert "0 of 4 photographs are held out" in caplog.text
    with pytest.raises(StageError, match="0 of 2 photographs are left to train on"):
        check_rows(recipe(), published(tmp_path / "test", 0, 2), ("train",))
