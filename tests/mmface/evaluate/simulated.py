"""Simulated scores: any numbers of rows, metrics and features, in place of painted pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mmface.datasets.records import SCORES
from mmface.evaluate.scores import Measure, Scores

CLIP = "zoo-clip-93209a4f"
MEASURES = {
    "miou": Measure(better="higher", extractor="zoo-parser-01234567", preprocessing="whole image"),
    "accuracy": Measure(better="higher"),
    "edge_agreement": Measure(better="higher"),
    "clip_distance": Measure(better="lower"),
    "hair_colour_accuracy": Measure(better="higher"),
    "source_miou": Measure(),
    "frechet": Measure(better="lower", extractor=CLIP, features=CLIP),
    "fid": Measure(better="lower", extractor="inception-89abcdef", features=CLIP),
    "kid": Measure(better="lower", extractor=CLIP, features=CLIP),
    "lpips": Measure(better="lower", unavailable="no weights: set metrics.lpips"),
}
Values = Sequence[float | None] | NDArray[np.float64]


def name_of(row: int) -> str:
    return f"{row:064x}"


def simulate(
    columns: Mapping[str, Values],
    *,
    ids: Sequence[int] | None = None,
    labels: Mapping[str, NDArray[np.int64]] | None = None,
    groups: Sequence[Mapping[str, str]] | None = None,
    features: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
    measures: Mapping[str, Measure] = MEASURES,
    resolution: int = 128,
    evalset: str = "0123456789abcdef",
) -> Scores:
    """Scores with one value per row for every ``<modality>/<metric>``; None: the row has no such metric.

    Args:
        ids: number of each row's photograph.
        labels: ``hit``, ``given``, ``found`` [n, 19].
        features: of the generated images and of the photographs, [n, D] each.
    """
    rows: dict[tuple[str, int], dict[str, object]] = {}
    for name, values in columns.items():
        modality, _, metric = name.partition("/")
        numbers = range(len(values)) if ids is None else ids
        for i, (number, value) in enumerate(zip(numbers, values, strict=True)):
            row = rows.setdefault((modality, number), _row(modality, number, i, labels, groups, features))
            if value is not None:
                row["metrics"] = [*row["metrics"], (metric, float(value))]  # type: ignore[misc]
    return Scores(pa.Table.from_pylist(list(rows.values()), schema=SCORES), dict(measures), resolution, evalset)


def _row(
    modality: str,
    number: int,
    i: int,
    labels: Mapping[str, NDArray[np.int64]] | None,
    groups: Sequence[Mapping[str, str]] | None,
    features: tuple[NDArray[np.float32], NDArray[np.float32]] | None,
) -> dict[str, object]:
    drawn, real = features if features is not None else (np.ones((i + 1, 2), "<f4"), np.ones((i + 1, 2), "<f4"))
    return {
        "id": f"{name_of(number)}-{modality}",
        "image_id": name_of(number),
        "modality": modality,
        "metrics": [],
        **{name: (labels[name][i].tolist() if labels else [0] * 19) for name in ("hit", "given", "found")},
        "groups": list(groups[i].items()) if groups else [],
        "features": [(CLIP, drawn[i].astype("<f4").tobytes())],
        "source_features": [(CLIP, real[i].astype("<f4").tobytes())],
    }
