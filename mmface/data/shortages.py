"""Checks whether an ``images`` dataset is large enough for a recipe, before further stages run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mmface.config import Recipe
from mmface.datasets.dataset import Dataset

SPLITS = "splits"  # key of the manifest's ``extra``: rows by split


@dataclass(frozen=True)
class Shortage:
    """Too few rows for training, evaluation or a batch: one line with the counts and what to do."""

    of: Literal["train", "test", "batch"]
    message: str


def shortages(images: Dataset, recipe: Recipe) -> Iterator[Shortage]:
    """Yields what an ``images`` dataset lacks for training and evaluation: rows of both splits, and a full batch."""
    counts = split_counts(images)
    train, test, holdout = counts["train"], counts["test"], recipe.data.holdout
    if not train:
        remedy = f"lower data.holdout ({holdout:g}), name some in a list train.txt, or add photographs"
        yield Shortage("train", f"0 of {test} photographs are left to train on; {remedy}")
    if not test:
        remedy = f"raise data.holdout ({holdout:g}), name some in a list test.txt, or add photographs"
        yield Shortage("test", f"0 of {train} photographs are held out, so no model can be evaluated; {remedy}")
    for number, phase in enumerate(recipe.phases):
        rows = train * recipe.data.views
        if 0 < rows < phase.batch_size:
            remedy = "lower it, raise data.views, or add photographs"
            fewer = f"{rows} training rows are fewer than phases.{number}.batch_size {phase.batch_size}"
            yield Shortage("batch", f"{fewer}, so that each step repeats some; {remedy}")


def split_counts(images: Dataset) -> Counter[str]:
    """Number of rows by split: from the manifest, or from the rows if an earlier release made the dataset."""
    counts = images.manifest.extra.get(SPLITS)
    return Counter(counts) if counts is not None else Counter(images.table(["split"])["split"].to_pylist())
