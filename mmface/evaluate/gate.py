"""The gate: checks whether a version's metrics allow it to become champion. The recipe sets the thresholds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mmface.config import Gate
from mmface.evaluate.metric_names import FRECHET, FrechetName

Metrics = Mapping[str, float]
MASK_FRECHET = f"mask/{FRECHET}"
REMEDY = (
    "evaluate both on the same rows with the same extractor, or turn the comparison off for this version "
    "(gate.max_frechet_ratio_to_champion=null); later versions are compared with it"
)


@dataclass(frozen=True)
class Check:
    """One check of the gate and its result; ``value`` is None if the metric is missing or not finite."""

    name: str
    value: float | None
    comparison: Literal[">=", "<="]
    threshold: float
    passed: bool
    reason: str


@dataclass(frozen=True)
class Decision:
    """The result of all checks. The version passes if every check passes and there is no other objection."""

    passed: bool
    checks: tuple[Check, ...]
    objection: str = ""

    @property
    def reason(self) -> str:
        """One line with the failed checks, or the number of passed checks."""
        failed = [check.reason for check in self.checks if not check.passed] + [self.objection] * bool(self.objection)
        return "; ".join(failed) if failed else f"passed {len(self.checks)} checks"


def decide(metrics: Metrics, champion: Metrics | None, gate: Gate) -> Decision:
    """Compares the metrics of a version with the thresholds that the recipe sets.

    Args:
        metrics: of the version, from :func:`mmface.evaluate.summary.summarise`.
        champion: metrics of the champion; None if there is no champion yet, which skips comparisons with it.
        gate: the thresholds; a missing or non-finite metric fails its check.
    """
    thresholds: list[tuple[str, Literal[">=", "<="], float | None]] = [
        ("mask/miou", ">=", gate.min_mask_miou),
        ("mask/accuracy", ">=", gate.min_mask_accuracy),
        ("mask/hair_colour_accuracy", ">=", gate.min_hair_colour),
        ("mask/clip_distance", "<=", gate.max_clip_distance),
        ("sketch/edge_agreement_gain", ">=", gate.min_edge_agreement_gain),
    ]
    checks = [
        _check(name, metrics.get(name), comparison, threshold)
        for name, comparison, threshold in thresholds
        if threshold is not None
    ]
    if gate.max_frechet_ratio_to_champion is not None and champion is not None:
        checks.append(_against_champion(metrics, champion, gate.max_frechet_ratio_to_champion))
    return Decision(all(check.passed for check in checks), tuple(checks))


def _check(name: str, value: float | None, comparison: Literal[">=", "<="], threshold: float) -> Check:
    if value is None or not math.isfinite(value):
        what = "is missing" if value is None else f"is {value}"
        return Check(name, None, comparison, threshold, False, f"{name} {what}, required {comparison} {threshold:g}")
    passed = value >= threshold if comparison == ">=" else value <= threshold
    reason = f"{name} is {value:.4g}, required {comparison} {threshold:g}"
    return Check(name, value, comparison, threshold, passed, reason)


def _against_champion(metrics: Metrics, champion: Metrics, ratio: float) -> Check:
    """Compares Fréchet distances; only if their names have the same rows, resolution and extractor weights."""
    name = next((key for key in metrics if key.startswith(MASK_FRECHET)), None)
    if name is None:
        return _check(f"{MASK_FRECHET}*/champion", None, "<=", ratio)
    other = next((key for key in champion if key.startswith(MASK_FRECHET)), None)
    unlike = _unlike(name, other)
    if unlike:
        reason = f"{name} is not compared with the champion's: {unlike}; {REMEDY}"
        return Check(f"{name}/champion", None, "<=", ratio, False, reason)
    return _check(f"{name}/champion", _ratio(metrics[name], champion[name]), "<=", ratio)


def _unlike(name: str, other: str | None) -> str:
    """Why two distances cannot be compared; empty if they can."""
    if other is None:
        return "the champion has none"
    measured, its = FrechetName.parse(name), FrechetName.parse(other)
    if measured is None or its is None:
        older = name if measured is None else other
        return f"{older} was measured by an older release, which did not record rows and weights"
    return f"they differ in {measured.differences(its)}" if measured != its else ""


def _ratio(value: float, reference: float) -> float:
    if reference > 0 or math.isnan(reference):
        return value / reference
    return 1.0 if value == 0 else math.inf
