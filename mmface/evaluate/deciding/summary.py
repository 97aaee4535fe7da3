"""Summarises the scores of a system as figures with intervals, for MLflow, the gate, the report and the model card."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import TypeAdapter

from mmface.evaluate.deciding.estimates import UNCONDITIONAL, Estimate, estimate, names
from mmface.evaluate.deciding.intervals import LEVEL, Intervals, bootstrap, mean_of, unseen
from mmface.evaluate.figures import Figure
from mmface.evaluate.scores import Measure, Scores

FIGURES = "figures.json"
HAIR, HAIR_N = "hair_colour_accuracy", "hair_colour_n"
FID = "fid"
EXACT = "Clopper-Pearson: every row has the same value"


@dataclass(frozen=True)
class GroupFigure:
    """A figure of the photographs that share an attribute, such as ``hair: blond``."""

    attribute: str
    group: str
    figure: Figure


@dataclass(frozen=True)
class Gap:
    """A figure by the groups of one attribute, and the difference between the best and the worst group.

    Attributes:
        groups: in the order of the groups' names; those with fewer rows than asked are not compared.
        gap: difference of the figures of the best and the worst compared group; NaN with fewer than two.
        best, worst: names of these groups.
    """

    attribute: str
    metric: str
    groups: tuple[GroupFigure, ...]
    gap: float
    best: str
    worst: str


def summarise(scores: Scores, *, min_frechet_n: int = 2, seed: int = 0) -> list[Figure]:
    """The figures of a system, by modality.

    - ``<modality>/n``: number of images; ``…/hair_colour_n``: of those whose prompt names a hair colour and whose mask
      shows hair.
    - ``<modality>/<metric>``: mean over the images, or the distance between the images and the photographs as sets.
      The name of a stand-in for the FID says what it was measured with
      (:class:`mmface.evaluate.measuring.metric_names.FrechetName`).
    - ``mask/iou/<label>`` and ``mask/dataset_miou``: intersection over union from the pixels of all images.
    - ``sketch/edge_agreement_baseline``: of the same rows painted without the sketch; ``…_gain`` is the difference to
      it.

    Args:
        min_frechet_n: fewest images for the FID (``metrics.min_frechet_n``); with fewer it is unavailable.
        seed: of the resamples.
    """
    figures = []
    for modality in sorted(scores.rows):
        figures += [_number(scores, modality, "n", len(scores.rows[modality]))]
        found = [estimate(scores, name) for name in names(scores) if name.startswith(f"{modality}/")]
        figures += _figures([one for one in found if one is not None], scores, min_frechet_n, seed)
        hair = scores.values(f"{modality}/{HAIR}")[0]
        figures += [_number(scores, modality, HAIR_N, len(hair))]
        figures += [] if modality == UNCONDITIONAL else list(_unavailable(scores, modality))
    return figures


def flat(figures: Sequence[Figure]) -> dict[str, float]:
    """The figures that have a value, as the ``{name: value}`` of ``metrics.json`` and of MLflow."""
    measured = (figure for figure in figures if not figure.unavailable)
    return {figure.name: math.nan if figure.value is None else figure.value for figure in measured}


def write_figures(figures: Sequence[Figure]) -> str:
    """The figures as JSON; a value that is not finite is written as null."""
    return TypeAdapter(list[Figure]).dump_json(list(figures), indent=1).decode() + "\n"


def read_figures(text: str | bytes) -> list[Figure]:
    """The figures from the JSON of :func:`write_figures`."""
    return TypeAdapter(list[Figure]).validate_json(text)


def by_group(scores: Scores, metric: str, *, least: int = 5, seed: int = 0) -> list[Gap]:
    """A figure by every attribute of the photographs, with the gap between the best and the worst group.

    Args:
        metric: with a direction of better, such as ``mask/miou``.
        least: fewest rows of a group that is compared.
    """
    modality = metric.partition("/")[0]
    members: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in scores.rows.get(modality, []):
        for attribute, group in row["groups"].items():
            members[attribute][group].append(row["image_id"])
    gaps = (_gap(scores, metric, name, dict(groups), least, seed) for name, groups in sorted(members.items()))
    return [gap for gap in gaps if gap.groups]


def figure_of(scores: Scores, one: Estimate, seed: int = 0) -> Figure:
    """The figure of an estimate with its interval."""
    return _figures([one], scores, 0, seed)[0]


def _gap(scores: Scores, metric: str, attribute: str, members: dict[str, list[str]], least: int, seed: int) -> Gap:
    figures = []
    for group, ids in sorted(members.items()):
        one = estimate(scores, metric, set(ids))
        if one is not None:
            figures.append(GroupFigure(attribute, group, figure_of(scores, one, seed)))
    compared = [one for one in figures if one.figure.n >= least and one.figure.value is not None]
    if len(compared) < 2 or not figures[0].figure.better:
        return Gap(attribute, metric, tuple(figures), math.nan, "", "")
    ordered = sorted(compared, key=lambda one: (one.figure.value or 0.0, one.group))
    lowest, highest = ordered[0], ordered[-1]
    worst, best = (lowest, highest) if lowest.figure.better == "higher" else (highest, lowest)
    gap = (highest.figure.value or 0.0) - (lowest.figure.value or 0.0)
    return Gap(attribute, metric, tuple(figures), gap, best.group, worst.group)


def _figures(estimates: Sequence[Estimate], scores: Scores, min_frechet_n: int, seed: int) -> list[Figure]:
    """Figures of one modality, in order. The means over the same rows share their resamples, which saves time."""
    together: dict[tuple[str, ...], list[Estimate]] = defaultdict(list)
    for one in estimates:
        if one.rows is not None:
            together[tuple(one.ids)].append(one)
    limits: dict[str, tuple[float, float, str]] = {}
    for means in together.values():
        rows = np.stack([one.rows for one in means if one.rows is not None], axis=1)
        found = bootstrap(mean_of(rows), len(rows), method="BCa", seed=seed)
        for i, one in enumerate(means):
            limits[one.name] = _limits(one, found, i)
    figures = []
    for one in estimates:
        if _metric(one.name).startswith(FID) and len(one.ids) < min_frechet_n:
            figures.append(_too_few(one, scores, min_frechet_n))
            continue
        figures.append(_figure(one, scores, limits.get(one.name) or _own_limits(one, seed)))
    return figures


def _own_limits(one: Estimate, seed: int) -> tuple[float, float, str]:
    found = bootstrap(one.statistic, len(one.ids), method=one.method, resamples=one.resamples, seed=seed)
    return float(found.low[0]), float(found.high[0]), found.method


def _limits(one: Estimate, found: Intervals, i: int) -> tuple[float, float, str]:
    """Limits of a mean. Resamples of rows that are all 0 or all 1 do not vary, though other rows would."""
    if one.rates and one.value in (0.0, 1.0):
        reach = unseen(len(one.ids), (1 + LEVEL) / 2)
        return (0.0, reach, EXACT) if one.value == 0.0 else (1.0 - reach, 1.0, EXACT)
    return float(found.low[i]), float(found.high[i]), found.method


def _figure(one: Estimate, scores: Scores, limits: tuple[float, float, str]) -> Figure:
    low, high, method = limits
    described = _described(one.name, one.measure, scores).model_copy(update={"value": one.value, "n": len(one.ids)})
    if not (math.isfinite(low) and math.isfinite(high)):
        return described
    return described.model_copy(update={"low": low, "high": high, "interval": method})


def _described(name: str, measure: Measure, scores: Scores) -> Figure:
    """A figure without value, with what it is measured with."""
    return Figure(
        name=name,
        value=None,
        better=measure.better,
        extractor=measure.extractor,
        resolution=scores.resolution,
        preprocessing=measure.preprocessing,
        unavailable=measure.unavailable,
    )


def _number(scores: Scores, modality: str, metric: str, n: int) -> Figure:
    return Figure(name=f"{modality}/{metric}", value=float(n), n=n, resolution=scores.resolution)


def _too_few(one: Estimate, scores: Scores, least: int) -> Figure:
    n = len(one.ids)
    why = (
        f"{n} images are too few: the distance is biased upwards below {least} (metrics.min_frechet_n); "
        "read the kernel distance instead, or raise evaluate.n in a new evaluate.set"
    )
    return _described(one.name, one.measure, scores).model_copy(update={"n": n, "unavailable": why})


def _unavailable(scores: Scores, modality: str) -> Iterator[Figure]:
    for metric, measure in sorted(scores.measures.items()):
        if measure.unavailable:
            yield _described(f"{modality}/{metric}", measure, scores)


def _metric(name: str) -> str:
    return name.partition("/")[2]
