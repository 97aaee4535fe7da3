"""Compares two systems on the same rows: paired differences with intervals, and what the rows suffice to tell (§8).

A difference is that of the first system minus the second, row by row or on the same resamples. ``error`` is its
standard error; with z(p) the normal quantile, a difference of (z(level) + z(power)) x error is detected with the
probability ``power`` by a one-sided test at ``level``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy import stats

from mmface.errors import InputError
from mmface.evaluate.deciding.estimates import UNCONDITIONAL, Estimate, estimate, measure_of, names
from mmface.evaluate.deciding.intervals import LEVEL, Counts, Floats, Method, bootstrap, unseen
from mmface.evaluate.figures import Better
from mmface.evaluate.scores import Scores

POWER = 0.8
SHOWN = 16
CERTAIN = "no row differs: rule of three"
Verdict = Literal["better", "worse", "not told apart"]


class Row(BaseModel):
    """A row on which two systems differ, by the id of its photograph."""

    model_config = ConfigDict(frozen=True)

    image_id: str
    a: float
    b: float


class Difference(BaseModel):
    """The difference of two systems, a - b, in one figure.

    Attributes:
        name: ``<modality>/<metric>``.
        a, b: the figures of the two systems on the common rows; None if they are not finite.
        value: a - b.
        low, high: limits of its interval at ``level`` (two-sided); None if there is none.
        error: its standard error.
        n: common rows.
        better: which direction is better.
        detectable: smallest difference that these rows detect with the asked power.
        interval: method of the interval.
        rows: where the two differ most; empty for distances between sets.
        unavailable: why the two cannot be compared in this figure, and what to do.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    a: float | None = None
    b: float | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    level: float = LEVEL
    power: float = POWER
    error: float | None = None
    n: int = 0
    better: Better = ""
    detectable: float | None = None
    interval: str = ""
    rows: tuple[Row, ...] = ()
    unavailable: str = ""

    @property
    def gain(self) -> tuple[float, float, float] | None:
        """Value and limits in the direction of better; None if the figure has no direction, value or interval."""
        if not self.better or self.value is None or self.low is None or self.high is None:
            return None
        if self.better == "higher":
            return self.value, self.low, self.high
        return -self.value, -self.high, -self.low

    @property
    def verdict(self) -> Verdict:
        """Whether the interval excludes 0, in the direction of better."""
        if self.gain is None or self.gain[1] <= 0 <= self.gain[2]:
            return "not told apart"
        return "better" if self.gain[1] > 0 else "worse"

    def rows_for(self, margin: float) -> int | None:
        """Number of rows with which a difference of ``margin`` is detected with the asked power; None if unknown."""
        if self.detectable is None or not margin:
            return None
        return max(2, math.ceil(self.n * (self.detectable / margin) ** 2))


def compare(
    a: Scores,
    b: Scores,
    metrics: Sequence[str] | None = None,
    *,
    level: float = LEVEL,
    power: float = POWER,
    seed: int = 0,
) -> list[Difference]:
    """The differences of two systems on the rows that both have.

    Args:
        metrics: such as ``mask/miou``; None for all that both have and that have a direction, without baselines.
        level: of the two-sided intervals; a one-sided test at L has the limits of 2 L - 1.
        power: with which ``detectable`` would be detected.
        seed: of the resamples.

    Raises:
        InputError: the two were measured on other evaluation sets or at other resolutions, or have no common row.
    """
    check_alike(a, b)
    if metrics is None:
        both = set(names(b))
        metrics = [name for name in names(a) if name in both and _compared(a, name)]
    return [difference(a, b, name, level=level, power=power, seed=seed) for name in metrics]


def check_alike(a: Scores, b: Scores) -> None:
    """Raises InputError unless both were measured on the same evaluation set, at one resolution, on a common row."""
    remedy = "measure both with the same recipe (mmface evaluate)"
    if a.evalset != b.evalset:
        message = f"the systems were measured on the evaluation sets {a.evalset} and {b.evalset}; {remedy}"
        raise InputError(message, field="evaluate.set")
    if a.resolution != b.resolution:
        message = f"the systems were measured at {a.resolution} and {b.resolution} pixels; {remedy}"
        raise InputError(message, field="resolution")
    if not (_photographs(a) & _photographs(b)):
        raise InputError(f"the systems have no row of the evaluation set {a.evalset} in common; {remedy}", field="rows")


def difference(
    a: Scores, b: Scores, name: str, *, level: float = LEVEL, power: float = POWER, seed: int = 0
) -> Difference:
    """The difference in one figure; ``unavailable`` says why there is none."""
    pair = Pair.of(a, b, name)
    if isinstance(pair, str):
        return Difference(name=name, level=level, power=power, unavailable=pair)
    one, other = pair.a, pair.b
    n = len(one.ids)
    method: Method = "centred percentile" if one.method == "centred percentile" else "percentile"
    found = bootstrap(pair.statistic, n, method=method, level=level, resamples=one.resamples, seed=seed)
    value, low, high, error = one.value - other.value, float(found.low[0]), float(found.high[0]), float(found.error[0])
    interval = found.method
    if one.rates and other.rates and not pair.rows.any():
        # Resamples do not vary, though rows that were not drawn could differ.
        high, interval = unseen(n, (1 + level) / 2), CERTAIN
        low, error = -high, high / float(stats.norm.ppf((1 + level) / 2))
    error *= math.sqrt(n / (n - 1)) if n > 1 else math.nan
    reach = float(stats.norm.ppf((1 + level) / 2) + stats.norm.ppf(power))
    limits = (low, high) if math.isfinite(low) and math.isfinite(high) else (None, None)
    return Difference(
        name=one.name,
        a=_finite(one.value),
        b=_finite(other.value),
        value=_finite(value),
        low=limits[0],
        high=limits[1],
        level=level,
        power=power,
        error=_finite(error),
        n=n,
        better=one.measure.better,
        detectable=_finite(reach * error),
        interval=interval if limits[0] is not None else "",
        rows=pair.most(),
    )


@dataclass(frozen=True)
class Pair:
    """The same figure of two systems on their common rows."""

    a: Estimate
    b: Estimate

    @classmethod
    def of(cls, a: Scores, b: Scores, name: str) -> Pair | str:
        """The pair, or why there is none."""
        first, second = estimate(a, name), estimate(b, name)
        if first is None or second is None:
            return missing(a if first is None else b, name)
        if first.ids != second.ids:
            common = set(first.ids) & set(second.ids)
            first, second = estimate(a, name, common), estimate(b, name, common)
        if first is None or second is None or first.ids != second.ids:
            return f"{name} was measured on too few rows that the systems have in common"
        if first.measure.extractor != second.measure.extractor:
            return (
                f"{name} was measured with {first.measure.extractor or 'no network'} and "
                f"{second.measure.extractor or 'no network'}; measure both with the same recipe (mmface evaluate)"
            )
        return cls(first, second)

    @property
    def rows(self) -> Floats:
        """[n] differences of the rows; empty for figures that are no means of rows."""
        if self.a.rows is None or self.b.rows is None:
            return np.zeros(0)
        return np.asarray(self.a.rows - self.b.rows)

    def statistic(self, counts: Counts) -> Floats:
        """The difference of resamples, counts [R, n] -> [1, R]."""
        return np.asarray(self.a.statistic(counts) - self.b.statistic(counts))

    def most(self) -> tuple[Row, ...]:
        """The rows that differ most, the largest difference first."""
        if self.a.rows is None or self.b.rows is None or not np.isfinite(self.rows).all():
            return ()
        order = sorted(np.flatnonzero(self.rows), key=lambda i: (-abs(self.rows[i]), self.a.ids[i]))
        return tuple(
            Row(image_id=self.a.ids[i], a=float(self.a.rows[i]), b=float(self.b.rows[i])) for i in order[:SHOWN]
        )


def missing(scores: Scores, name: str) -> str:
    """Why the scores have no figure of this name, and the known names that are alike."""
    measure = scores.measures.get(name.partition("/")[2])
    if measure is not None and measure.unavailable:
        return f"{name} is unavailable: {measure.unavailable}"
    known = names(scores)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"{name} is missing; {'known and similar' if near else 'known'}: {', '.join(near or known)}"


def _compared(scores: Scores, name: str) -> bool:
    return not name.startswith(UNCONDITIONAL) and bool(measure_of(scores, name).better)


def _photographs(scores: Scores) -> set[str]:
    return {row["image_id"] for rows in scores.rows.values() for row in rows}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
