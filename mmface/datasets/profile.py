"""The profile of a dataset: the range of every figure and the frequency of every category over its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from mmface.datasets.dataset import Dataset

FIGURES = ("face_area", "label_coverage", "edge_density", "width", "height")
CATEGORIES = ("source", "split", "mask_origin", "outlier", "captioner", "hair_colour", "note")
SHOWN = 8
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


def profile(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """(column, one line that describes it) for each figure and category of the dataset; reads no other column."""
    if not dataset.parts():
        return
    names = [name for name in (*FIGURES, *CATEGORIES) if name in dataset.columns]
    table = dataset.table(names)
    for name in names:
        yield name, _range(table[name]) if name in FIGURES else _shares(table[name])
    if "rejections" in dataset.columns:
        yield "rejections", _rejections(dataset)


def _range(column: pa.ChunkedArray) -> str:
    low, rare, middle, high, top = np.quantile(column.to_numpy(), QUANTILES)
    return f"median {middle:.3g}, 90 % within {rare:.3g} to {high:.3g}, all within {low:.3g} to {top:.3g}"


def _shares(column: pa.ChunkedArray) -> str:
    return _named(Counter({one["values"] or "none": one["counts"] for one in column.value_counts().to_pylist()}))


def _rejections(dataset: Dataset) -> str:
    counted: Counter[str] = Counter()
    for part in dataset.parts():
        for row in dataset.part(part.path, ["rejections"])["rejections"].to_pylist():
            counted.update(dict(row))
    return _named(counted) if counted else "none"


def _named(counted: Counter[str]) -> str:
    rest = len(counted) - SHOWN
    return ", ".join(f"{name} {count}" for name, count in counted.most_common(SHOWN)) + (
        f" and {rest} more" if rest > 0 else ""
    )
