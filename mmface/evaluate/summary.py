"""Summarises samples as metrics, for MLflow, the gate and the bundle."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa

from mmface.config import Recipe
from mmface.evaluate.distances import Floats, frechet
from mmface.evaluate.metric_names import FrechetName
from mmface.evaluate.metrics import slug

HAIR = "hair_colour_accuracy"


def summarise(samples: pa.Table, recipe: Recipe, extractor: str) -> dict[str, float]:
    """Means over the samples of each modality, as ``<modality>/<metric>``.

    - ``<modality>/n``: number of images.
    - ``<modality>/hair_colour_n``: number of images whose prompt names a hair colour and whose mask shows hair.
    - ``<modality>/frechet_…``: distance between the CLIP embeddings of generated images and photographs; the name says
      on which rows (:class:`mmface.evaluate.metric_names.FrechetName`).
    - ``sketch/edge_agreement_baseline``: edge agreement of the same rows painted without the sketch; ``…_gain`` is the
      difference to it.

    Args:
        samples: rows of :data:`mmface.datasets.records.SAMPLES`.
        recipe: names the extractors and the resolution.
        extractor: identity of the CLIP that measured the samples, from their manifest.
    """
    figures: dict[str, float] = {}
    rows_by_modality: dict[str, list[dict[str, Any]]] = defaultdict(list)
    columns = ["id", "image_id", "modality", "metrics", "features_generated", "features_source"]
    for row in sorted(samples.select(columns).to_pylist(), key=lambda row: str(row["id"])):
        rows_by_modality[row["modality"]].append(row)
    for modality, rows in sorted(rows_by_modality.items()):
        ids = (str(row["image_id"]) for row in rows)
        name = FrechetName.of(slug(recipe.components.clip), extractor, recipe.phases[-1].resolution, ids)
        figures.update({f"{modality}/{metric}": value for metric, value in _modality(rows, name).items()})
    baseline, agreement = (figures.get(f"{kind}/edge_agreement") for kind in ("unconditional", "sketch"))
    if baseline is not None and agreement is not None:
        figures["sketch/edge_agreement_baseline"] = baseline
        figures["sketch/edge_agreement_gain"] = agreement - baseline
    return figures


def _modality(rows: list[dict[str, Any]], frechet_name: FrechetName) -> dict[str, float]:
    collected: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for name, value in row["metrics"]:
            collected[name].append(value)
    figures: dict[str, float] = {"n": len(rows)}
    # A single value that is not finite makes the mean NaN, which fails the gate.
    figures.update({name: math.fsum(values) / len(values) for name, values in sorted(collected.items())})
    figures["hair_colour_n"] = len(collected.get(HAIR, ()))
    if len(rows) > 1:
        generated, source = (_features(rows, f"features_{kind}") for kind in ("generated", "source"))
        figures[str(frechet_name)] = frechet(generated, source)
    return figures


def _features(rows: list[dict[str, Any]], column: str) -> Floats:
    return np.stack([np.frombuffer(row[column], "<f4") for row in rows]).astype(np.float64)
