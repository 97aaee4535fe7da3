"""The scores of one system's pictures on an evaluation set, as columns of numbers (§8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from mmface.datasets.dataset import Dataset
from mmface.errors import InputError
from mmface.evaluate.figures import Better

# Cosine distance of a generated image, and of its photograph, to the nearest training photograph.
NEAREST, SOURCE_NEAREST = "nearest_training", "source_nearest_training"
PERCENTILE = 1.0  # of the distances of held-out photographs; a nearer sample counts as memorised
COLUMNS = ["id", "image_id", "modality", "metrics", "hit", "given", "found", "groups", "features", "source_features"]


class Measure(BaseModel):
    """What a metric is measured with.

    Attributes:
        better: which direction is better; empty for a metric that only describes.
        extractor: name and hash of the weights; empty without a network.
        preprocessing: what is done with an image first.
        features: key of the features that the metric compares as sets (kernel and Fréchet distances); empty for a
            metric with one value per image.
        unavailable: why it was not measured, and what to do.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    better: Better = ""
    extractor: str = ""
    preprocessing: str = ""
    features: str = ""
    unavailable: str = ""


@dataclass(frozen=True)
class Scores:
    """Scores of one system.

    Attributes:
        table: rows of :data:`mmface.datasets.records.SCORES`.
        measures: what each metric (without its modality) was measured with.
        resolution: side of the images in pixels.
        evalset: fingerprint of the evaluation set.
    """

    table: pa.Table
    measures: Mapping[str, Measure]
    resolution: int
    evalset: str

    @classmethod
    def of(cls, dataset: Dataset) -> Scores:
        """Reads a published ``scores`` dataset."""
        manifest = dataset.manifest
        measures = {name: Measure.model_validate(facts) for name, facts in manifest.extra["measures"].items()}
        evalset = manifest.inputs["evalset"].rstrip("/").rsplit("/", 1)[-1]
        return cls(dataset.table(COLUMNS), measures, int(manifest.extra["resolution"]), evalset)

    @cached_property
    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """The rows of each modality, sorted by the id of the photograph; ``metrics`` and features as dicts.

        Where the distances to training photographs were measured, each row has the metric ``memorised``, 0 or 1.
        """
        found: dict[str, list[dict[str, Any]]] = {}
        for row in sorted(self.table.to_pylist(), key=lambda row: str(row["image_id"])):
            maps = {name: dict(row[name] or ()) for name in ("metrics", "groups", "features", "source_features")}
            found.setdefault(row["modality"], []).append({**row, **maps})
        for rows in found.values():
            if rows and all(NEAREST in row["metrics"] for row in rows):
                near, known = (np.array([row["metrics"][name] for row in rows]) for name in (NEAREST, SOURCE_NEAREST))
                for row, value in zip(rows, memorised(near, known), strict=True):
                    row["metrics"]["memorised"] = float(value)
        return found

    def values(self, name: str) -> tuple[list[str], NDArray[np.float64]]:
        """Ids of photographs and values [n] of ``<modality>/<metric>``, of the rows that have the metric."""
        modality, _, metric = name.partition("/")
        rows = [row for row in self.rows.get(modality, []) if metric in row["metrics"]]
        return [row["image_id"] for row in rows], np.array([row["metrics"][metric] for row in rows], np.float64)

    def features(self, modality: str, key: str) -> tuple[list[str], NDArray[np.float32], NDArray[np.float32]]:
        """Ids of photographs, features [n, D] of the generated images, and features [n, D] of the photographs."""
        rows = self.rows.get(modality, [])
        drawn, real = (
            np.stack([np.frombuffer(row[column][key], "<f4") for row in rows]).astype(np.float32)
            for column in ("features", "source_features")
        )
        return [row["image_id"] for row in rows], drawn, real


def memorised(samples: NDArray[np.float64], held_out: NDArray[np.float64]) -> NDArray[np.float64]:
    """Which samples lie nearer to a training photograph than the 1st percentile of held-out photographs [n] -> [n].

    Both arguments are cosine distances to the nearest of the same training photographs. The mean of the result is the
    share that the gate compares with ``gate.max_memorised``; 1 % is expected of a model that does not memorise.

    Raises:
        InputError: no held-out photograph, or a distance that is not a number.
    """
    if not len(held_out) or np.isnan(samples).any() or np.isnan(held_out).any():
        raise InputError("needs a held-out photograph, and distances that are numbers", field="memorised")
    return np.asarray(samples < np.percentile(held_out, PERCENTILE), np.float64)
