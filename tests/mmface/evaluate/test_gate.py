"""Decisions of the gate: thresholds, missing metrics, comparison with the champion."""

from __future__ import annotations

import math
import re

import pytest

from mmface.config import Gate
from mmface.evaluate.gate import decide
from mmface.evaluate.metric_names import FrechetName

IDS = [f"{number:064x}" for number in range(128)]
OLD = "mask/frechet_zoo-clip_n128"
FRECHET = f"mask/{FrechetName.of('zoo-clip', 'zoo:clip:0123456789abcdef', 256, IDS)}"
GOOD = {
    "mask/miou": 0.6,
    "mask/accuracy": 0.9,
    "mask/hair_colour_accuracy": 0.7,
    "mask/clip_distance": 0.2,
    "sketch/edge_agreement_gain": 0.3,
    FRECHET: 10.0,
}
ALL = Gate(
    min_mask_miou=0.5,
    min_mask_accuracy=0.8,
    min_hair_colour=0.6,
    max_clip_distance=0.3,
    min_edge_agreement_gain=0.1,
    max_frechet_ratio_to_champion=1.1,
)


def test_without_thresholds_nothing_is_checked() -> None:
    decision = decide({}, None, Gate())
    assert decision.passed
    assert decision.checks == ()


def test_metrics_within_all_thresholds_pass() -> None:
    decision = decide(GOOD, {FRECHET: 9.5}, ALL)
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
        (FRECHET, 11.0),
    ],
)
def test_each_threshold_can_fail_alone(name: str, value: float) -> None:
    decision = decide({**GOOD, name: value}, {FRECHET: 9.5}, ALL)
    assert not decision.passed
    assert [check.name.removesuffix("/champion") for check in decision.checks if not check.passed] == [name]
    assert name in decision.reason


def test_a_metric_equal_to_its_threshold_passes() -> None:
    assert decide({"mask/miou": 0.5}, None, Gate(min_mask_miou=0.5)).passed


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("gate", [Gate(min_mask_miou=0.0), Gate(max_clip_distance=9.0)])
def test_a_metric_that_is_missing_or_not_finite_fails_with_a_reason(value: float | None, gate: Gate) -> None:
    metrics = {} if value is None else {"mask/miou": value, "mask/clip_distance": value}
    decision = decide(metrics, None, gate)
    assert not decision.passed
    assert ("is missing" if value is None else f"is {value}") in decision.reason


def test_without_a_champion_nothing_is_compared() -> None:
    assert decide(GOOD, None, Gate(max_frechet_ratio_to_champion=0.1)).checks == ()


def test_distances_with_different_names_are_never_compared() -> None:
    decision = decide(GOOD, {"mask/frechet_zoo-clip_n64": 1e9}, Gate(max_frechet_ratio_to_champion=1.1))
    assert not decision.passed
    assert decision.checks[0].value is None
    assert "n64" in decision.reason


def test_a_champion_with_distance_nan_or_zero_fails_the_comparison() -> None:
    gate = Gate(max_frechet_ratio_to_champion=1.1)
    assert not decide(GOOD, {FRECHET: math.nan}, gate).passed
    assert not decide(GOOD, {FRECHET: 0.0}, gate).passed


def test_a_version_without_a_distance_fails_the_comparison() -> None:
    assert not decide({}, GOOD, Gate(max_frechet_ratio_to_champion=1.1)).passed


@pytest.mark.parametrize(
    ("champion", "reason"),
    [
        (FrechetName.of("zoo-clip", "zoo:clip:0123456789abcdef", 256, [*IDS[1:], "f" * 64]), "differ in rows"),
        (FrechetName.of("zoo-clip", "zoo:clip:fedcba9876543210", 256, IDS), "differ in weights"),
        (FrechetName.of("zoo-clip", "zoo:clip:0123456789abcdef", 128, IDS), "differ in resolution 256 and 128"),
        (FrechetName.of("ViT-L", "hub:owner/ViT-L", 256, IDS), "differ in extractor zoo-clip and ViT-L, weights"),
    ],
)
def test_distances_over_different_rows_or_weights_are_never_compared(champion: FrechetName, reason: str) -> None:
    decision = decide(GOOD, {f"mask/{champion}": 1e9}, Gate(max_frechet_ratio_to_champion=1.1))
    assert not decision.passed
    assert decision.checks[0].value is None
    assert reason in decision.reason
    assert "gate.max_frechet_ratio_to_champion=null" in decision.reason


@pytest.mark.parametrize(("candidate", "champion"), [(OLD, OLD), (FRECHET, OLD), (OLD, FRECHET)])
def test_names_of_older_releases_are_never_compared(candidate: str, champion: str) -> None:
    decision = decide({candidate: 1.0}, {champion: 1e9}, Gate(max_frechet_ratio_to_champion=1.1))
    assert not decision.passed
    assert f"{OLD} was measured by an older release" in decision.reason


def test_the_name_of_a_distance_can_be_parsed() -> None:
    name = FrechetName.of("zoo-clip", "zoo:clip:0123456789abcdef", 256, reversed(IDS))
    assert f"mask/{name}" == FRECHET
    assert FrechetName.parse(FRECHET) == name
    assert re.fullmatch(r"mask/frechet_zoo-clip-[0-9a-f]{8}_256px_n128-[0-9a-f]{8}", FRECHET)
