"""Figures of one system as functions of the rows of its evaluation set; intervals and comparisons resample them.

Shapes: n rows, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from mmface.errors import InputError
from mmface.evaluate.deciding.intervals import RESAMPLES, Counts, Floats, Method, Statistic, mean_of
from mmface.evaluate.measuring import distances
from mmface.evaluate.measuring.metric_names import FRECHET, FrechetName
from mmface.evaluate.scores import Measure, Scores
from mmface.imaging.labels import LABELS

EDGES = "edge_agreement"
GAIN, BASELINE = f"{EDGES}_gain", f"{EDGES}_baseline"
UNCONDITIONAL = "unconditional"
IOU, DATASET_IOU = "iou/", "dataset_miou"
FRECHET_RESAMPLES = 200
STAND_IN = FRECHET.rstrip("_")  # the Fréchet distance whose name says what it was measured with
Distance = Callable[[Any, Any], float]
Resampled = Callable[[Any, Any, Counts], Floats]
# What compares two sets of features, by the start of the metric's name.
DISTANCES: Mapping[str, tuple[Distance, Resampled]] = {
    STAND_IN: (distances.frechet, distances.resampled_frechet),
    "fid": (distances.frechet, distances.resampled_frechet),
    "kid": (distances.kid, distances.resampled_kid),
    "cmmd": (distances.cmmd, distances.resampled_cmmd),
}


@dataclass(frozen=True)
class Estimate:
    """A figure of one system.

    Attributes:
        name: ``<modality>/<metric>``; a Fréchet distance's name says what it was measured with.
        measure: what it was measured with.
        ids: photographs of its rows.
        value: the figure; NaN if a row is.
        statistic: the figure of resamples, counts [R, n] -> [1, R].
        rows: [n] the value of each row, for a mean of rows; None for a distance or a ratio of sums.
        method: of its interval.
    """

    name: str
    measure: Measure
    ids: list[str]
    value: float
    statistic: Statistic
    rows: Floats | None = None
    method: Method = "BCa"

    @property
    def resamples(self) -> int:
        """How often the rows are drawn again for its interval; every draw of a Fréchet distance costs a whole one."""
        return FRECHET_RESAMPLES if self.method == "centred percentile" else RESAMPLES

    @property
    def rates(self) -> bool:
        """Whether every row is 0 or 1."""
        return self.rows is not None and bool(np.isin(self.rows, (0, 1)).all())


def names(scores: Scores) -> list[str]:
    """The names that :func:`estimate` knows for these scores, without those that are unavailable."""
    return [name for modality in sorted(scores.rows) for name in _names(scores, modality)]


def estimate(scores: Scores, name: str, keep: Collection[str] | None = None) -> Estimate | None:
    """The figure ``<modality>/<metric>``; None if no row has it.

    Args:
        name: of a metric with one value per image, of a distance between sets (``mask/kid``, ``mask/frechet`` or its
            long name), ``mask/iou/<label>``, ``mask/dataset_miou``, ``sketch/edge_agreement_gain``.
        keep: photographs to measure; None for all.
    """
    modality, _, metric = name.partition("/")
    if metric.startswith(f"{FRECHET}") and FrechetName.parse(name):
        metric = STAND_IN
    if (modality, metric) in {("sketch", GAIN), ("sketch", BASELINE)}:
        return _edges(scores, metric, keep)
    if metric == DATASET_IOU or metric.startswith(IOU):
        return _overlap(scores, modality, metric, keep)
    measure = measure_of(scores, name)
    if measure.features:
        return _distance(scores, modality, metric, measure, keep)
    ids, rows = _values(scores, f"{modality}/{metric}", keep)
    return _mean(name, measure, ids, rows)


def measure_of(scores: Scores, name: str) -> Measure:
    """What a figure is measured with."""
    metric = name.partition("/")[2]
    if metric.startswith(FRECHET) and FrechetName.parse(name):
        metric = STAND_IN
    if metric == BASELINE:
        return scores.measures.get(EDGES, Measure()).model_copy(update={"better": ""})
    shared = {GAIN: EDGES, DATASET_IOU: "miou"}
    metric = "miou" if metric.startswith(IOU) else shared.get(metric, metric)
    return scores.measures.get(metric, Measure())


def _names(scores: Scores, modality: str) -> Iterator[str]:
    """In the order in which they are listed: means, overlap of labels, distances between sets."""
    per_row = {metric for row in scores.rows[modality] for metric in row["metrics"]}
    sets = {name for name, measure in scores.measures.items() if measure.features and not measure.unavailable}
    yield from (f"{modality}/{metric}" for metric in sorted(per_row))
    if modality == "mask":
        yield from (f"{modality}/{IOU}{label}" for label in LABELS)
        yield f"{modality}/{DATASET_IOU}"
    if len(scores.rows[modality]) > 1:
        yield from (f"{modality}/{metric}" for metric in sorted(sets))
    if modality == "sketch" and UNCONDITIONAL in scores.rows and EDGES in per_row:
        yield from (f"sketch/{BASELINE}", f"sketch/{GAIN}")


def _values(scores: Scores, name: str, keep: Collection[str] | None) -> tuple[list[str], Floats]:
    ids, values = scores.values(name)
    if keep is None:
        return ids, values
    chosen = [i for i, one in enumerate(ids) if one in keep]
    return [ids[i] for i in chosen], values[chosen]


def _mean(name: str, measure: Measure, ids: list[str], rows: Floats) -> Estimate | None:
    if not ids:
        return None
    return Estimate(name, measure, ids, exact_mean(rows), mean_of(rows[:, None]), rows)


def exact_mean(rows: Floats) -> float:
    """The mean, summed without rounding; NaN if a value is not finite."""
    return math.fsum(rows) / len(rows) if np.isfinite(rows).all() else math.nan


def _edges(scores: Scores, metric: str, keep: Collection[str] | None) -> Estimate | None:
    """Edge agreement without the sketch, or the gain over it: on the rows that were painted with and without."""
    ids, with_sketch = _values(scores, f"sketch/{EDGES}", keep)
    others, without = _values(scores, f"{UNCONDITIONAL}/{EDGES}", keep)
    baseline = dict(zip(others, without, strict=True))
    chosen = [i for i, one in enumerate(ids) if one in baseline]
    before = np.array([baseline[ids[i]] for i in chosen], np.float64)
    ids = [ids[i] for i in chosen]
    measure = measure_of(scores, f"sketch/{metric}")
    if metric == BASELINE:
        return _mean(f"sketch/{BASELINE}", measure, ids, before)
    found = _mean(f"sketch/{GAIN}", measure, ids, with_sketch[chosen] - before)
    # The difference of the two printed means, to the last bit.
    value = exact_mean(with_sketch[chosen]) - exact_mean(before) if found else 0.0
    return found and replace(found, value=value)


def _overlap(scores: Scores, modality: str, metric: str, keep: Collection[str] | None) -> Estimate | None:
    """Intersection over union from the pixels of all rows: of one label, or the mean over labels."""
    rows = [row for row in scores.rows.get(modality, []) if keep is None or row["image_id"] in keep]
    rows = [row for row in rows if row["hit"] is not None]
    if not rows:
        return None
    hit, given, found = (np.array([row[name] for row in rows], np.float64) for name in ("hit", "given", "found"))
    union = given + found - hit
    if metric == DATASET_IOU:
        asked = given.sum(0) > 0
        if not asked.any():
            return None
        hit, union = hit[:, asked], union[:, asked]
    else:
        label = metric.removeprefix(IOU)
        if label not in LABELS:
            return None
        number = LABELS.index(label)
        seen = union[:, number] > 0
        if not (given[:, number] > 0).any():
            return None
        rows = [row for row, one in zip(rows, seen, strict=True) if one]
        hit, union = hit[seen][:, [number]], union[seen][:, [number]]
    ratios = partial(_ratios, hit, union)
    value = float(ratios(np.ones((1, len(rows)), np.int64))[0, 0])
    measure = measure_of(scores, f"{modality}/{metric}")
    ids = [row["image_id"] for row in rows]
    return Estimate(f"{modality}/{metric}", measure, ids, value, ratios, method="percentile")


def _ratios(hit: Floats, union: Floats, counts: Counts) -> Floats:
    """Mean over the labels [n, L] that a resample has, of the ratio of sums -> [1, R]."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nanmean((counts @ hit) / (counts @ union), axis=1))[None]


def _distance(
    scores: Scores, modality: str, metric: str, measure: Measure, keep: Collection[str] | None
) -> Estimate | None:
    if measure.unavailable or len(scores.rows.get(modality, [])) < 2:
        return None
    ids, drawn, real = scores.features(modality, measure.features)
    if keep is not None:
        chosen = [i for i, one in enumerate(ids) if one in keep]
        ids, drawn, real = [ids[i] for i in chosen], drawn[chosen], real[chosen]
    if len(ids) < 2:
        return None
    of_sets, resampled = _kind(metric)
    finite = bool(np.isfinite(drawn).all() and np.isfinite(real).all())
    value = of_sets(drawn, real) if finite else math.nan
    frechet = of_sets is distances.frechet

    def statistic(counts: Counts) -> Floats:
        found = np.full(len(counts), np.nan)
        usable = finite & ((counts > 0).sum(1) > 1)  # a resample of few rows can be a single row
        if usable.any():
            found[usable] = resampled(drawn, real, counts[usable])
        return found[None]

    name = f"{modality}/{long_name(measure, scores.resolution, ids) if metric == STAND_IN else metric}"
    return Estimate(name, measure, ids, value, statistic, method="centred percentile" if frechet else "percentile")


def _kind(metric: str) -> tuple[Distance, Resampled]:
    found = next((kind for start, kind in DISTANCES.items() if metric.startswith(start)), None)
    if found is None:
        known = ", ".join(f"{start}…" for start in DISTANCES)
        raise InputError(f"{metric} compares sets of features, but is none of {known}", field="measures")
    return found


def long_name(measure: Measure, resolution: int, ids: Collection[str]) -> FrechetName:
    """The name of a Fréchet distance: extractor, weights, resolution and rows."""
    extractor, _, weights = measure.extractor.rpartition("-")
    return replace(FrechetName.of(extractor, "", resolution, ids), weights=weights)
