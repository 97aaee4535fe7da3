"""The gate: does a candidate's evaluation allow it to become champion? Thresholds come from the recipe."""

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
    "evaluate both on the same rows with the same extractor, or let this version pass once without the comparison "
    "(gate.max_frechet_ratio_to_champion=null): later ones are compared with it"
)


@dataclass(frozen=True)
class Check:
    """One question of the gate and its answer; ``value`` is None where there was no finite figure to ask."""

    name: str
    value: float | None
    comparison: Literal[">=", "<="]
    threshold: float
    passed: bool
    reason: str


@dataclass(frozen=True)
class Decision:
    """All questions asked; the candidate passes when every answer does and nothing else speaks against it."""

    passed: bool
    checks: tuple[Check, ...]
    objection: str = ""

    @property
    def reason(self) -> str:
        """One line: what failed, or that nothing did."""
        failed = [check.reason for check in self.checks if not check.passed] + [self.objection] * bool(self.objection)
        return "; ".join(failed) if failed else f"passed {len(self.checks)} checks"


def decide(metrics: Metrics, champion: Metrics | None, gate: Gate) -> Decision:
    """Asks every threshold that the recipe sets.

    Args:
        metrics: the candidate's, as :func:`mmface.evaluate.summary.summarise` makes them.
        champion: the serving model's, or None when there is none yet (then comparisons with it are not asked).
        gate: thresholds; a missing or non-finite metric fails its check.
    """
    asked: list[tuple[str, Literal[">=", "<="], float | None]] = [
        ("mask/miou", ">=", gate.min_mask_miou),
        ("mask/accuracy", ">=", gate.min_mask_accuracy),
        ("mask/hair_colour_accuracy", ">=", gate.min_hair_colour),
        ("mask/clip_distance", "<=", gate.max_clip_distance),
        ("sketch/edge_agreement_gain", ">=", gate.min_edge_agreement_gain),
    ]
    checks = [
        _check(name, metrics.get(name), comparison, threshold)
        for name, comparison, threshold in asked
        if threshold is not None
    ]
    if gate.max_frechet_ratio_to_champion is not None and champion is not None:
        checks.append(_against_champion(metrics, champion, gate.max_frechet_ratio_to_champion))
    return Decision(all(check.passed for check in checks), tuple(checks))


def _check(name: str, value: float | None, comparison: Literal[">=", "<="], threshold: float) -> Check:
    if value is None or not math.isfinite(value):
        what = "is missing" if value is None else f"is {value}"
        return Check(name, None, comparison, threshold, False, f"{name} {what}, {comparison} {threshold:g} was asked")
    passed = value >= threshold if comparison == ">=" else value <= threshold
    reason = f"{name} {value:.4g}, {comparison} {threshold:g} was asked"
    return Check(name, value, comparison, threshold, passed, reason)


def _against_champion(metrics: Metrics, champion: Metrics, ratio: float) -> Check:
    """Distances compare only under one name that says the rows, the resolution and the extractor's weights."""
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
    """Why two distances cannot be compared; empty where they can."""
    if other is None:
        return "it has none"
    measured, its = FrechetName.parse(name), FrechetName.parse(other)
    if measured is None or its is None:
        older = name if measured is None else other
        return f"{older} was measured by an older version, which did not name rows and weights"
    return f"they differ in {measured.differences(its)}" if measured != its else ""


def _ratio(value: float, reference: float) -> float:
    if reference > 0 or math.isnan(reference):
        return value / reference
    return 1.0 if value == 0 else math.inf
