"""Intervals of figures: the one place that computes them, by bootstrap over the rows of an evaluation set (§8).

A figure is a function of how often each row counts. Drawing rows with replacement gives those counts, and the spread of
the figure over many draws gives its interval. Two systems measured on the same rows get the same counts: paired.

Shapes: n rows, R resamples, M figures.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from threadpoolctl import threadpool_limits

Floats = NDArray[np.float64]
Counts = NDArray[np.integer[Any]]
Statistic = Callable[[Counts], Floats]  # counts [R, n] -> figures [M, R]
Method = Literal["BCa", "percentile", "centred percentile"]

LEVEL = 0.95
RESAMPLES = 2000
FEWEST = 20  # rows below which nothing is decided: measured coverage falls short of the level
HELD = 2**21  # row numbers in memory at the same time


@dataclass(frozen=True)
class Intervals:
    """Two-sided intervals of M figures.

    Attributes:
        low, high: [M] limits; NaN where a figure has none: a single row, or a value that is not finite.
        error: [M] standard errors.
        method: as it is printed, such as "BCa bootstrap over rows, 2,000 resamples".
    """

    low: Floats
    high: Floats
    error: Floats
    method: str


def bootstrap(
    statistic: Statistic,
    n: int,
    *,
    method: Method,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Intervals:
    """Intervals of the figures that ``statistic`` computes from how often each of ``n`` rows counts.

    Which method covers the true value as often as ``level`` says was measured (``tests/mmface/evaluate``):

    - ``BCa`` (Efron 1987) for means of one system: rates near 0 or 1 are skewed.
    - ``percentile`` for differences of two systems, which are nearly symmetric.
    - ``centred percentile`` for Fréchet distances: a resample repeats rows, so its distance is larger than that of n
      different rows. The resamples are shifted by that bias; the interval is that of the distance at this n.

    The percentiles lie further out than the level by a factor that makes the interval of normal values Student's
    (Hesterberg 2015, "expanded percentile").

    Args:
        statistic: counts [R, n] -> [M, R].
        seed: of the draws; the same seed draws the same rows.
    """
    described = f"{method} bootstrap over rows, {resamples:,} resamples"
    value = statistic(np.ones((1, n), np.int64))[:, 0]
    nothing = np.full(len(value), np.nan)
    if n < 2:
        return Intervals(nothing, nothing, nothing, described)

    def of_rows(rows: NDArray[np.int64], axis: int = -1) -> Floats:
        return statistic(count(rows, n)).reshape(len(value), *rows.shape[:-1])

    # The matrices of a resample are small: threads on them cost more than they bring.
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"), threadpool_limits(1):
        # Figures that do not vary have no BCa interval; `_settle` gives theirs.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (np.arange(n),),
            of_rows,
            axis=-1,
            vectorized=True,
            n_resamples=resamples,
            batch=max(1, HELD // n),
            confidence_level=expanded(level, n),
            method="BCa" if method == "BCa" else "percentile",
            rng=np.random.default_rng(seed),
        )
    low, high, error = (np.atleast_1d(x) for x in (*found.confidence_interval, found.standard_error))
    if method == "centred percentile":
        shift = value - found.bootstrap_distribution.mean(-1)
        low, high = low + shift, high + shift
    return _settle(value, low, high, error, described)


def expanded(level: float, n: int) -> float:
    """The level at which a percentile interval of ``n`` normal values is as wide as Student's at ``level``."""
    reach = stats.t.ppf((1 + level) / 2, n - 1) * np.sqrt(n / (n - 1))
    return float(1 - 2 * stats.norm.sf(reach))


def count(rows: NDArray[np.int64], n: int) -> Counts:
    """How often each of ``n`` rows occurs in lists of row numbers: [..., k] -> [R, n], R the product of the rest."""
    flat = rows.reshape(-1, rows.shape[-1])
    shifted = flat + np.arange(len(flat))[:, None] * n
    return np.bincount(shifted.ravel(), minlength=len(flat) * n).reshape(len(flat), n)


def mean_of(values: Floats) -> Statistic:
    """The means of the columns [n, M] as a statistic."""

    def means(counts: Counts) -> Floats:
        return np.asarray((counts @ values).T / counts.sum(1))

    return means


def unseen(n: int, level: float) -> float:
    """Largest rate of an event that is not seen once in ``n`` rows, at a one-sided ``level`` (rule of three)."""
    return float(1 - (1 - level) ** (1 / n))


def _settle(value: Floats, low: Floats, high: Floats, error: Floats, method: str) -> Intervals:
    """The limits of a figure that does not vary are its value; one that is not finite has none."""
    still = np.isnan(low) & (error == 0)
    low, high = np.where(still, value, low), np.where(still, value, high)
    bad = ~np.isfinite(value)
    low, high, error = (np.where(bad, np.nan, x) for x in (low, high, error))
    return Intervals(low, high, error, method)
