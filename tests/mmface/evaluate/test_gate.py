"""Decisions of the gate: limits, comparisons with the champion, too few rows, leaks, gates that ask nothing."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from mmface.config import Gate
from mmface.evaluate.deciding.gate import Decision, decide
from mmface.evaluate.measuring.metric_names import FrechetName
from mmface.evaluate.scores import Measure, Scores
from tests.mmface.evaluate.simulated import CLIP, MEASURES, Values, name_of, simulate

N = 128
random = np.random.default_rng(0)
NOISE = random.normal(0, 0.05, (2, N))
NOISE -= NOISE.mean(1, keepdims=True)
FACES = random.normal(size=(2, N, 8)).astype(np.float32)
GOOD = {
    "mask/miou": 0.6,
    "mask/accuracy": 0.9,
    "mask/hair_colour_accuracy": 1.0,
    "mask/clip_distance": 0.2,
    "mask/memorised": 0.0,
    "sketch/edge_agreement": 0.7,
    "unconditional/edge_agreement": 0.1,
}
LIMITS = Gate(
    min_mask_miou=0.5,
    min_mask_accuracy=0.8,
    min_hair_colour=0.6,
    max_clip_distance=0.3,
    min_edge_agreement_gain=0.1,
    max_memorised=0.02,
    max_frechet_ratio_to_champion=1.1,
)
MEMORISED = {**MEASURES, "memorised": Measure(better="lower")}
COMPARE = Gate.model_validate({"compare": {"mask/miou": {"margin": 0.02}}})


def constant(**changed: float) -> Scores:
    """Scores whose rows all have the value of ``GOOD``, or the changed one."""
    values = {**GOOD, **{name.replace("__", "/"): value for name, value in changed.items()}}
    columns = {name: [value] * N for name, value in values.items()}
    return simulate(columns, features=(FACES[0], FACES[1]), measures=MEMORISED)


def noisy(mean: float, noise: int = 0, n: int = N, spread: float = 1.0) -> Scores:
    return simulate({"mask/miou": mean + spread * NOISE[noise, :n]})


def test_a_gate_that_asks_nothing_promotes_nothing_and_says_what_to_write() -> None:
    decision = decide(constant(), None, Gate())
    assert decision.verdict == "rejected"
    assert "gate: open" in decision.reason
    assert "gate.compare" in decision.reason


def test_an_open_gate_promotes_whatever_the_figures_are() -> None:
    assert decide(constant(mask__miou=math.nan), None, Gate(open=True)).verdict == "passed"


@pytest.mark.parametrize("gate", [Gate(open=True), LIMITS])
def test_a_leak_of_the_evaluation_set_is_rejected_by_every_gate(gate: Gate) -> None:
    decision = decide(constant(), constant(), gate, leaks=[name_of(7)])
    assert decision.verdict == "rejected"
    assert [check.name for check in decision.checks if not check.passed] == ["leaks"]
    assert name_of(7)[:16] in decision.reason


def test_metrics_within_all_limits_pass() -> None:
    decision = decide(constant(), constant(), LIMITS)
    assert decision.verdict == "passed"
    assert decision.passed
    assert len(decision.checks) == 7
    assert decision.reason == "passed 7 checks"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mask/miou", 0.49),
        ("mask/accuracy", 0.1),
        ("mask/hair_colour_accuracy", 0.5),
        ("mask/clip_distance", 0.31),
        ("mask/memorised", 0.03),
    ],
)
@pytest.mark.parametrize("broken", [False, True])
def test_each_limit_can_fail_alone(name: str, value: float, broken: bool) -> None:
    """By its value, or by a single row that is not a number."""
    values: Values = [GOOD[name]] * (N - 1) + [math.nan] if broken else [value] * N
    columns = {other: [mean] * N for other, mean in GOOD.items()} | {name: values}
    scores = simulate(columns, features=(FACES[0], FACES[1]), measures=MEMORISED)
    decision = decide(scores, constant(), LIMITS)
    assert decision.verdict == "rejected"
    assert [check.name for check in decision.checks if not check.passed] == [name]
    assert decision.reason.startswith(f"{name} is {'nan' if broken else f'{value:g}'}, required")


def test_a_gain_over_the_unconditional_rows_can_fail_alone() -> None:
    decision = decide(constant(unconditional__edge_agreement=0.65), constant(), LIMITS)
    assert [check.name for check in decision.checks if not check.passed] == ["sketch/edge_agreement_gain"]


def test_a_metric_equal_to_its_limit_passes() -> None:
    assert decide(constant(mask__miou=0.5), None, Gate(min_mask_miou=0.5)).passed


def test_a_missing_and_an_unavailable_metric_fail_with_the_reason() -> None:
    scores = simulate({"mask/accuracy": [0.5] * N}, measures={"miou": Measure(unavailable="set evaluate.parser")})
    decision = decide(scores, None, Gate(min_mask_miou=0.0, max_clip_distance=9.0))
    assert decision.verdict == "rejected"
    assert "mask/miou is unavailable: set evaluate.parser" in decision.reason
    assert "mask/clip_distance is missing" in decision.reason


def test_a_first_version_is_not_compared_and_the_reason_says_so() -> None:
    decision = decide(noisy(0.5), None, COMPARE)
    assert decision.passed
    assert "there is no champion to compare with" in decision.reason
    assert decide(constant(), None, Gate(max_frechet_ratio_to_champion=0.1)).checks == ()


def test_a_version_that_is_surely_not_worse_is_promoted() -> None:
    decision = decide(noisy(0.5, 0), noisy(0.5, 1), COMPARE)
    check = decision.checks[0]
    assert decision.verdict == "passed"
    assert check.low is not None
    assert check.low > -0.02
    assert (check.margin, check.level, check.n, check.threshold) == (0.02, 0.95, N, -0.02)
    assert "a loss of more than 0.02 is ruled out at 0.95" in check.reason


def test_a_version_that_is_surely_worse_is_rejected() -> None:
    decision = decide(noisy(0.4, 0), noisy(0.5, 1), COMPARE)
    assert decision.verdict == "rejected"
    assert "worse, a loss of more than 0.02" in decision.reason


def test_too_few_rows_to_tell_are_not_decided_and_the_number_of_rows_that_would_do_is_named() -> None:
    decision = decide(noisy(0.485, 0), noisy(0.5, 1), COMPARE)
    check = decision.checks[0]
    assert decision.verdict == "not decided"
    assert not decision.passed
    assert check.rows_needed is not None
    assert check.rows_needed > N
    assert check.detectable is not None
    assert f"about {check.rows_needed:,} rows would do (raise evaluate.n in a new evaluate.set)" in decision.reason


def test_the_named_number_of_rows_decides() -> None:
    """The rows needed for a measured gain are those of the normal formula (z + z') s / distance to the margin."""
    check = decide(noisy(0.485, 0), noisy(0.5, 1), COMPARE).checks[0]
    assert check.value is not None
    spread = np.std(NOISE[0] - NOISE[1], ddof=1)
    expected = ((1.6449 + 0.8416) * spread / (check.value + 0.02)) ** 2
    assert check.rows_needed == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("n", [1, 2, 19])
def test_a_handful_of_rows_decides_nothing_though_all_are_equal(n: int) -> None:
    decision = decide(noisy(0.5, n=n), noisy(0.5, n=n), COMPARE)
    assert decision.verdict == "not decided"
    assert f"the same {n} rows: too few rows to tell, give at least 20" in decision.reason


def test_the_margin_of_a_metric_that_is_better_when_lower_counts_upwards() -> None:
    gate = Gate.model_validate({"compare": {"mask/clip_distance": {"margin": 0.02}}})
    low, high = (simulate({"mask/clip_distance": mean + NOISE[i]}) for i, mean in enumerate((0.2, 0.3)))
    assert decide(low, high, gate).verdict == "passed"
    assert decide(high, low, gate).verdict == "rejected"


def test_better_asks_for_a_shown_improvement() -> None:
    gate = Gate(better="mask/miou")
    assert decide(noisy(0.6, 0), noisy(0.5, 1), gate).verdict == "passed"
    assert decide(noisy(0.5, 0), noisy(0.5, 1), gate).verdict == "not decided"
    assert decide(noisy(0.4, 0), noisy(0.5, 1), gate).verdict == "rejected"


@pytest.mark.parametrize("setting", ["compare", "better"])
def test_a_name_that_no_metric_has_fails_and_similar_ones_are_named(setting: str) -> None:
    gate = Gate.model_validate({"compare": {"mask/mio": {"margin": 1}}} if setting == "compare" else {"better": "mio"})
    decision = decide(noisy(0.9, 0), noisy(0.1, 1), gate)
    assert decision.verdict == "rejected"
    assert "mask/miou" in decision.reason


def test_a_metric_without_a_direction_cannot_be_compared() -> None:
    gate = Gate.model_validate({"compare": {"mask/source_miou": {"margin": 1}}})
    scores = simulate({"mask/source_miou": [0.5] * N})
    assert "no direction of better" in decide(scores, scores, gate).reason


def test_a_row_that_is_not_a_number_fails_the_comparison() -> None:
    broken = simulate({"mask/miou": [math.nan, *(0.5 + NOISE[0, 1:])]})
    for pair in ((broken, noisy(0.5)), (noisy(0.5), broken)):
        decision = decide(*pair, COMPARE)
        assert decision.verdict == "rejected"
        assert "not finite" in decision.reason


def test_systems_measured_on_other_sets_are_not_compared() -> None:
    other = simulate({"mask/miou": 0.5 + NOISE[0]}, evalset="fedcba9876543210")
    decision = decide(noisy(0.5), other, COMPARE)
    assert decision.verdict == "rejected"
    assert "0123456789abcdef and fedcba9876543210" in decision.reason


def test_several_metrics_are_all_asked_and_a_loss_is_shown_at_a_stricter_level() -> None:
    """A gain that shows a loss for one metric is not decided when it is one of twenty."""
    columns = {f"mask/m{i}": 0.5 + NOISE[0] for i in range(20)}
    measures = {f"m{i}": Measure(better="higher") for i in range(20)}
    champion = simulate(dict.fromkeys(columns, 0.5 + NOISE[1]), measures=measures)
    error = np.std(NOISE[0] - NOISE[1]) / math.sqrt(N)
    shift = float(np.mean(NOISE[1] - NOISE[0])) - 0.02 - 2.1 * error
    challenger = simulate({**columns, "mask/m0": 0.5 + NOISE[0] + shift}, measures=measures)
    one = Gate.model_validate({"compare": {"mask/m0": {"margin": 0.02}}})
    many = Gate.model_validate({"compare": {name: {"margin": 0.02} for name in columns}})
    assert decide(challenger, champion, one).verdict == "rejected"
    decision = decide(challenger, champion, many)
    assert decision.verdict == "not decided"
    assert len(decision.checks) == 20


def test_a_binary_metric_without_a_differing_row_is_not_certainty() -> None:
    """A loss of 1 % is not ruled out by 128 rows that do not differ: 3 of 100 such samples have none."""
    same = simulate({"mask/hair_colour_accuracy": [1.0] * N})
    for margin, verdict in ((0.01, "not decided"), (0.03, "passed")):
        gate = Gate.model_validate({"compare": {"mask/hair_colour_accuracy": {"margin": margin}}})
        assert decide(same, same, gate).verdict == verdict


def test_a_decision_is_json_and_keeps_its_numbers() -> None:
    decision = decide(noisy(0.485, 0), noisy(0.5, 1), COMPARE)
    again = json.loads(json.dumps(decision.to_dict(), allow_nan=False))
    assert again["verdict"] == "not decided"
    assert again["reason"] == decision.reason
    assert again["checks"][0]["rows_needed"] == decision.checks[0].rows_needed
    assert again["checks"][0]["low"] == decision.checks[0].low
    broken = decide(simulate({"mask/miou": [math.nan] * N}), noisy(0.5), COMPARE)
    json.dumps(broken.to_dict(), allow_nan=False)


def test_an_objection_rejects_a_version_that_passed_every_check() -> None:
    decision = Decision((), objection="it was champion before")
    assert decision.verdict == "rejected"
    assert decision.reason == "it was champion before"


def far(shift: float, **settings: object) -> Scores:
    moved = (FACES[0] + np.float32(shift), FACES[1])
    return simulate({"mask/miou": [0.5] * N}, features=moved, **settings)  # type: ignore[arg-type]


def test_the_ratio_of_frechet_distances_is_limited() -> None:
    gate = Gate(max_frechet_ratio_to_champion=1.1)
    assert decide(far(1.0), far(1.0), gate).passed
    decision = decide(far(2.0), far(1.0), gate)
    assert decision.verdict == "rejected"
    assert decision.checks[0].value == pytest.approx(3.7, abs=0.3)


@pytest.mark.parametrize(
    ("champion", "reason"),
    [
        ({"ids": [*range(1, N), 999]}, "differ in rows"),
        ({"measures": {"frechet": Measure(extractor="zoo-clip-fedcba98", features=CLIP)}}, "differ in weights"),
        ({"resolution": 256}, "differ in resolution 128 and 256"),
        ({"measures": {}}, "the champion has none"),
    ],
)
def test_distances_over_different_rows_or_weights_are_never_compared(champion: dict[str, object], reason: str) -> None:
    decision = decide(far(1.0), far(99.0, **champion), Gate(max_frechet_ratio_to_champion=1.1))
    assert decision.verdict == "rejected"
    assert decision.checks[0].value is None
    assert reason in decision.reason
    assert "gate.max_frechet_ratio_to_champion=null" in decision.reason


def test_a_version_without_a_distance_fails_the_ratio() -> None:
    assert not decide(noisy(0.5, n=1), far(1.0), Gate(max_frechet_ratio_to_champion=1.1)).passed


def test_the_name_of_a_distance_can_be_parsed() -> None:
    ids = [name_of(row) for row in range(N)]
    name = FrechetName.of("zoo-clip", "zoo:clip:0123456789abcdef", 256, reversed(ids))
    assert FrechetName.parse(f"mask/{name}") == name
