"""Whether two samples come from one distribution: maximum mean discrepancy with a permutation test.

The distance is the unbiased estimate of the squared MMD (Gretton et al. 2012, JMLR 13, eq. 3) with a Gaussian kernel
whose width is the median distance of the pooled samples. Under permutation of the pooled samples the kernel stays the
same, so the test holds its level at every sample size.

Shapes: n rows of the new sample, m of the reference, N = n + m, D features.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from mmface.store import Store

Floats = NDArray[np.float64]
Verdict = Literal["drifted", "not drifted", "cannot tell"]

PERMUTATIONS = 1999
CHUNK = 500  # permutations at once: 8 MB for 2,000 rows
ROUNDING = 1e-12  # of a squared distance, as a share of the largest squared norm
DECIMALS = 12  # of distances, so that splits that differ by equal rows have equal distances
LEAST = 2  # rows of each side, for the unbiased estimate
POWER_FACTOR = 2.0  # a distance of twice the critical value is found in most comparisons


class Drift(BaseModel):
    """The comparison of a new sample with a reference.

    Attributes:
        distance: squared MMD, 0 for equal distributions (it can be slightly negative) and at most 2; None if a side has
            too few rows.
        p_value: share of permutations with at least this distance; None without a distance.
        critical: the distance that only a share of 1 - ``level`` of the permutations reaches.
        n, m: rows of the new sample and of the reference.
        needed: new rows with which a distance of ``min_distance`` would be found; None if there are enough, or too few
            of the reference to say.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Verdict
    distance: float | None
    p_value: float | None
    critical: float | None
    n: int
    m: int
    level: float
    min_distance: float
    needed: int | None = None


class Measured(BaseModel):
    """The latest comparison of one kind, as stored in the home.

    Attributes:
        content: what was new: the fingerprint of an ``images`` dataset, or the name of the newest file of prompts.
        training: fingerprint of the dataset that it was compared with.
        version: the champion, which was trained on it.
        announced: whether an event was emitted for this content.
        at: when, ISO 8601 in UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    content: str
    training: str
    version: str
    announced: bool
    at: str
    drift: Drift


def measured_key(model: str) -> str:
    """Key in the home of the latest comparisons of a registered model."""
    return f"drift/{model}.json"


def read_measured(home: Store, model: str) -> dict[str, Measured]:
    """The latest comparisons by kind, ``photographs`` and ``prompts``; empty before the first one."""
    key = measured_key(model)
    stored = json.loads(home.read(key)) if home.exists(key) else {}
    return {kind: Measured.model_validate(facts) for kind, facts in stored.items()}


def write_measured(home: Store, model: str, found: Mapping[str, Measured]) -> None:
    """Replaces the stored comparisons."""
    content = {kind: one.model_dump(mode="json") for kind, one in found.items()}
    home.write(measured_key(model), json.dumps(content, indent=1).encode())


def compare(new: NDArray[np.floating], reference: NDArray[np.floating], level: float, min_distance: float) -> Drift:
    """Compares [n, D] with [m, D]; equal samples give equal figures.

    The verdict is ``drifted`` if the test finds a difference at ``level`` and the distance reaches ``min_distance``;
    ``not drifted`` if it does not and there are enough rows to find such a distance; else ``cannot tell``.
    """
    n, m = len(new), len(reference)
    facts: dict[str, Any] = {"n": n, "m": m, "level": level, "min_distance": min_distance}
    if min(n, m) < LEAST:
        needed = _needed_without(reference, level, min_distance) if m >= 2 * LEAST else None
        return Drift(verdict="cannot tell", distance=None, p_value=None, critical=None, needed=needed, **facts)
    kernel = gaussian_kernel(np.concatenate([new, reference]).astype(np.float64))
    distance, p_value, critical = _test(kernel, n, level)
    drifted = p_value <= 1 - level + 1e-12 and distance >= min_distance
    enough = _can_reject(n, m, level) and POWER_FACTOR * critical <= min_distance
    verdict: Verdict = "drifted" if drifted else "not drifted" if enough else "cannot tell"
    needed = None if drifted or enough else _needed(critical, n, m, level, min_distance)
    return Drift(verdict=verdict, distance=distance, p_value=p_value, critical=critical, needed=needed, **facts)


def gaussian_kernel(rows: Floats) -> Floats:
    """exp(-d² / 2s²) of all pairs [N, N] with a diagonal of zeros; s is the median distance of different rows."""
    centred = rows - rows.mean(0)
    norms = (centred**2).sum(1)
    squared = norms[:, None] + norms - 2 * centred @ centred.T
    squared[squared < ROUNDING * norms.max(initial=0)] = 0  # equal rows
    pairs = squared[np.triu_indices(len(rows), 1)]
    positive = pairs[pairs > 0]
    kernel: Floats = np.exp(-squared / (2 * float(np.median(positive)))) if len(positive) else np.ones_like(squared)
    np.fill_diagonal(kernel, 0)
    return kernel


def distances(kernel: Floats, chosen: NDArray[np.bool_]) -> Floats:
    """Squared MMD of each split of the rows: a kernel [N, N] with a diagonal of zeros, splits [B, N] -> [B].

    Args:
        chosen: the rows of one side; all splits have equally many.
    """
    n = int(chosen[0].sum())
    m = len(kernel) - n
    side = chosen.astype(np.float64)
    within = ((side @ kernel) * side).sum(1)
    touching = side @ kernel.sum(1)  # pairs within, and pairs across
    across = touching - within
    beyond = kernel.sum() - touching - across
    found: Floats = within / (n * (n - 1)) + beyond / (m * (m - 1)) - 2 * across / (n * m)
    return found.round(DECIMALS)


def likeness(new: NDArray[np.floating], reference: NDArray[np.floating]) -> Floats:
    """Mean kernel of each new row with all rows of the reference: [n, D] and [m, D] -> [n], near 0 for outliers."""
    found: Floats = gaussian_kernel(np.concatenate([new, reference]).astype(np.float64))[: len(new), len(new) :].mean(1)
    return found


def _test(kernel: Floats, n: int, level: float) -> tuple[float, float, float]:
    """Distance of the first ``n`` rows from the others, its p-value, and the critical value at ``level``.

    Tries all splits if there are at most :data:`PERMUTATIONS`, else random ones, the given split included.
    """

    from scipy.stats import permutation_test  # slow to import

    def statistic(one: NDArray[np.int64], other: NDArray[np.int64], axis: int = -1) -> Floats:
        rows = np.atleast_2d(one)
        chosen = np.zeros((len(rows), len(kernel)), bool)
        np.put_along_axis(chosen, rows, True, 1)
        return distances(kernel, chosen)

    places = np.arange(len(kernel))
    options = {"vectorized": True, "alternative": "greater", "n_resamples": PERMUTATIONS, "batch": CHUNK}
    result = permutation_test((places[:n], places[n:]), statistic, **options, random_state=0)
    critical = max(0.0, float(np.quantile(result.null_distribution, level, method="higher")))
    return np.ravel(result.statistic).item(), np.ravel(result.pvalue).item(), critical


def _can_reject(n: int, m: int, level: float) -> bool:
    """Whether there are so many splits that the rarest one is rarer than 1 - ``level``."""
    return math.comb(n + m, n) >= 1 / (1 - level)


def _needed(critical: float, n: int, m: int, level: float, min_distance: float) -> int:
    """New rows with which :data:`POWER_FACTOR` times the critical value is at most ``min_distance``.

    The critical value is proportional to 1/n + 1/m. If no number would do with m rows, both sides need that many.
    """
    slope = POWER_FACTOR * critical / (1 / n + 1 / m)
    left = min_distance / slope - 1 / m if slope else math.inf
    rows = 1 / left if left > 0 and 1 / left <= 4 * m else 2 * slope / min_distance
    least = next(count for count in range(LEAST, 1000) if _can_reject(count, m, level))
    return max(least, math.ceil(rows))


def _needed_without(reference: NDArray[np.floating], level: float, min_distance: float) -> int:
    """As :func:`_needed`, from the reference alone, split in two."""
    half = len(reference) // 2
    _, _, critical = _test(gaussian_kernel(reference.astype(np.float64)), half, level)
    return _needed(critical, half, len(reference) - half, level, min_distance)
