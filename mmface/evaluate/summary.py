"""Summarises scores as figures, for MLflow, the gate, the report and the bundle (§8)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence

from mmface.evaluate.figures import Figure
from mmface.evaluate.scores import Measure, Scores

HAIR = "hair_colour_accuracy"
FIGURES = "figures.json"


def summarise(scores: Scores, *, min_frechet_n: int = 2048) -> list[Figure]:
    """Figures ``<modality>/<metric>`` of one system.

    - ``<modality>/n``: number of images.
    - ``<modality>/hair_colour_n``: number of images whose prompt names a hair colour and whose mask shows hair.
    - ``sketch/edge_agreement_baseline``: edge agreement of the same rows painted without the sketch; ``…_gain`` is the
      difference to it.

    Args:
        min_frechet_n: fewest images for a Fréchet distance.
    """
    figures: list[Figure] = []
    for modality, rows in sorted(scores.rows.items()):
        figures.append(_figure(scores, f"{modality}/n", len(rows), len(rows)))
        for metric in sorted({name for row in rows for name in row["metrics"]}):
            _, values = scores.values(f"{modality}/{metric}")
            # A single value that is not finite makes the mean NaN, which fails the gate.
            figures.append(_figure(scores, f"{modality}/{metric}", math.fsum(values) / len(values), len(values)))
        count = len(scores.values(f"{modality}/{HAIR}")[0])
        figures.append(_figure(scores, f"{modality}/hair_colour_n", count, count))
    known = {figure.name: figure for figure in figures}
    baseline, agreement = (known.get(f"{kind}/edge_agreement") for kind in ("unconditional", "sketch"))
    if baseline and agreement and baseline.value is not None and agreement.value is not None:
        figures.append(baseline.model_copy(update={"name": "sketch/edge_agreement_baseline"}))
        gain = agreement.value - baseline.value
        figures.append(agreement.model_copy(update={"name": "sketch/edge_agreement_gain", "value": gain}))
    return figures


def flat(figures: Iterable[Figure]) -> dict[str, float]:
    """The available figures as {name: value}."""
    return {figure.name: figure.value for figure in figures if figure.value is not None}


def write_figures(figures: Sequence[Figure]) -> str:
    """The figures as JSON; a value that is not finite is written as null."""
    return json.dumps([figure.model_dump() for figure in figures], indent=1, allow_nan=True) + "\n"


def read_figures(text: str | bytes) -> list[Figure]:
    """The figures from the JSON of :func:`write_figures`."""
    return [Figure.model_validate(figure) for figure in json.loads(text)]


def _figure(scores: Scores, name: str, value: float, n: int) -> Figure:
    measure = scores.measures.get(name.partition("/")[2], Measure())
    return Figure(
        name=name,
        value=value,
        n=n,
        better=measure.better,
        extractor=measure.extractor,
        resolution=scores.resolution,
        preprocessing=measure.preprocessing,
    )
