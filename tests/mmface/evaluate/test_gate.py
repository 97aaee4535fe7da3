"""The gate's decisions."""

from __future__ import annotations

import math

import pytest

from mmface.config import Gate
from mmface.evaluate.gate import decide

GOOD = {
    "mask/miou": 0.6,
    "mask/accuracy": 0.9,
    "mask/hair_colour_accuracy": 0.7,
    "mask/clip_distance": 0.2,
    "sketch/edge_agreement_gain": 0.3,
    "mask/frechet_zoo-clip_n128": 10.0,
}
ALL = Gate(
    min_mask_miou=0.5,
    min_mask_accuracy=0.8,
    min_hair_colour=0.6,
    max_clip_distance=0.3,
    min_edge_agreement_gain=0.1,
    max_frechet_ratio_to_champion=1.1,
)


def test_no_thresholds_ask_nothing() -> None:
    decision = decide({}, None, Gate())
    assert decision.passed
    assert decision.checks == ()


def test_everything_good_passes() -> None:
    decision = decide(GOOD, {"mask/frechet_zoo-clip_n128": 9.5}, ALL)
    assert decision.passed
    assert len(decision.checks) == 6


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mask/miou", 0.49),
        ("mask/accuracy", 0.1),
        ("mask/hair_colour_accuracy", 0.5),
        ("mask/clip_distance", 0.31),
        ("sketch/edge_agreement_gain", 0.0),
        ("mask/frechet_zoo-clip_n128", 11.0),
    ],
)
def test_each_threshold_can_fail_alone(name: str, value: float) -> None:
    decision = decide({**GOOD, name: value}, {"mask/frechet_zoo-clip_n128": 9.5}, ALL)
    assert not decision.passed
    assert [check.name.removesuffix("/champion") for check in decision.checks if not check.passed] == [name]
    assert name in decision.reason


def test_a_threshold_is_met_by_equality() -> None:
    assert decide({"mask/miou": 0.5}, None, Gate(min_mask_miou=0.5)).passed


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("gate", [Gate(min_mask_miou=0.0), Gate(max_clip_distance=9.0)])
def test_missing_and_not_finite_fail_with_a_reason(value: float | None, gate: Gate) -> None:
    metrics = {} if value is None else {"mask/miou": value, "mask/clip_distance": value}
    decision = decide(metrics, None, gate)
    assert not decision.passed
    assert ("is missing" if value is None else f"is {value}") in decision.reason


def test_without_a_champion_nothing_is_compared() -> None:
    assert decide(GOOD, None, Gate(max_frechet_ratio_to_champion=0.1)).checks == ()


def test_distances_of_other_names_are_never_compared() -> None:
    decision = decide(GOOD, {"mask/frechet_zoo-clip_n64": 1e9}, Gate(max_frechet_ratio_to_champion=1.1))
    assert not decision.passed
    assert decision.checks[0].value is None
    assert "n64" in decision.reason


def test_a_champions_nan_or_zero_does_not_pass() -> None:
    gate = Gate(max_frechet_ratio_to_champion=1.1)
    assert not decide(GOOD, {"mask/frechet_zoo-clip_n128": math.nan}, gate).passed
    assert not decide(GOOD, {"mask/frechet_zoo-clip_n128": 0.0}, gate).passed


def test_a_candidate_without_a_distance_fails_the_comparison() -> None:
    assert not decide({}, GOOD, Gate(max_frechet_ratio_to_champion=1.1)).passed
