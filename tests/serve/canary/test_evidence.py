"""The sequential tests: their error rates when they are looked at after every request, and how fast they decide."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmface.config import Canary
from serve.canary.evidence import Evidence, Wealth, loss, rise, slower
from serve.canary.trial import Trial

QUICK = Canary(
    alias="challenger",
    auto=True,
    share=0.5,
    min_requests=50,
    max_requests=200,
    max_error_increase=0.1,
    max_slowdown=0.5,
    max_agreement_loss=0.1,
)
RUNS = 40
LOOK = 4  # requests of the canary between two looks


def outcome(seed: int, errors: float = 0.0, slow: float = 1.0, agreement: float = 0.6, drift: float = 0.0) -> str:
    """Lets a canary and a champion (errors 0, agreement 0.6) answer until the trial decides.

    Args:
        drift: how much both get worse and better with the time of day.
    """
    draw, trial, count = np.random.default_rng(seed), Trial(QUICK, "1", "2"), 0
    while True:
        count += 1
        canary, hour = bool(draw.random() < 0.5), drift * (1 + math.sin(count / 40))
        failed = float(draw.random() < hour + (errors if canary else 0.0))
        trial.add("errors", failed, canary=canary)
        trial.add("duration", (slow if canary else 1.0) * math.exp(0.3 * draw.standard_normal() + hour), canary=canary)
        agreed = (agreement if canary else 0.6) - hour + 0.1 * draw.standard_normal()
        trial.add("agreement", min(max(agreed, 0.0), 1.0), canary=canary)
        looks = canary and trial.requests % LOOK == 0
        if looks and (decision := trial.decide()) is not None:
            return decision.outcome


def share(wanted: str, **canary: float) -> float:
    return [outcome(seed, **canary) for seed in range(RUNS)].count(wanted) / RUNS


def test_a_version_as_good_as_the_champion_is_promoted() -> None:
    assert share("promoted") >= 0.9


@pytest.mark.parametrize("worse", [{"errors": 0.1}, {"slow": 1.5}, {"agreement": 0.5}], ids=["errors", "slow", "blind"])
def test_a_version_at_a_limit_is_promoted_in_five_percent_at_most(worse: dict[str, float]) -> None:
    assert share("promoted", **worse) <= 0.05


def test_a_version_within_all_limits_is_withdrawn_as_worse_in_five_percent_at_most() -> None:
    assert share("withdrawn", errors=0.08, slow=1.4, agreement=0.52) <= 0.05


def test_a_busy_hour_that_hits_both_versions_decides_nothing() -> None:
    assert share("withdrawn", drift=0.1) <= 0.05
    assert share("promoted", agreement=0.5, drift=0.1) <= 0.05


@pytest.mark.parametrize(
    "broken", [{"errors": 1.0}, {"slow": 4.0}, {"agreement": 0.1}], ids=["errors", "slow", "blind"]
)
def test_a_broken_version_is_withdrawn_within_a_hundred_requests(broken: dict[str, float]) -> None:
    short = QUICK.model_copy(update={"max_requests": 100})
    for seed in range(5):
        draw, trial = np.random.default_rng(seed), Trial(short, "1", "2")
        while (decision := trial.decide()) is None:
            canary = bool(draw.random() < 0.5)
            trial.add("errors", broken.get("errors", 0.0) * canary, canary=canary)
            trial.add("duration", broken.get("slow", 1.0) if canary else 1.0, canary=canary)
            trial.add("agreement", broken.get("agreement", 0.6) if canary else 0.6, canary=canary)
        assert decision.outcome == "withdrawn"
        assert trial.requests < 40


def test_nothing_is_decided_without_answers_of_both_versions() -> None:
    trial = Trial(QUICK, "1", "2")
    for _ in range(199):
        trial.add("errors", 1.0, canary=True)
    assert trial.decide() is None
    trial.add("errors", 1.0, canary=True)
    decision = trial.decide()
    assert decision is not None
    assert decision.outcome == "undecided"
    assert decision.why.startswith("not decided after 200 requests: errors, duration, agreement (errors 100.00% of 200")
    assert decision.figures["agreement"]["canary"] is None


def test_a_version_that_meets_no_idle_replica_is_undecided() -> None:
    trial = Trial(QUICK, "1", "2")
    while (decision := trial.decide()) is None:
        for canary in (True, False):
            trial.add("errors", 0.0, canary=canary)
            trial.add("agreement", 0.6, canary=canary)
    assert (decision.outcome, trial.requests) == ("undecided", 200)
    assert "requests: duration (" in decision.why


def test_the_wealth_is_the_mean_over_the_bets_of_the_product_of_their_gains() -> None:
    gains = np.array([0.3, -0.5, 0.2, 0.1])
    wealth = Wealth(-0.5)
    for gain in gains:
        wealth.add(gain)
    bets = 2 * 0.5 ** np.arange(10)
    assert wealth.log == pytest.approx(math.log(np.prod(1 + bets[:, None] * gains, axis=1).mean()))
    broke = Wealth(-1.0)
    broke._bets = broke._bets[:1]
    broke._logs = broke._logs[:1]
    broke.add(-1.0)
    assert broke.log == -math.inf


def test_wealth_is_a_fair_game_at_the_limit() -> None:
    """Its expectation stays 1 when the mean gain is 0: all 2^8 outcomes of a fair coin, by hand."""
    total = 0.0
    for coins in range(256):
        wealth = Wealth(-1.0)
        for turn in range(8):
            wealth.add(1.0 if coins >> turn & 1 else -1.0)
        total += math.exp(wealth.log)
    assert total / 256 == pytest.approx(1.0)


def test_blocks_end_with_a_value_of_each_version() -> None:
    seen: list[tuple[list[float], list[float]]] = []

    def harm(canary: object, champion: object) -> float:
        seen.append((list(canary), list(champion)))  # type: ignore[call-overload]
        return 0.0

    evidence = Evidence(harm, 0.5, 0, 1)
    for value, canary in [(1, False), (2, False), (3, True), (4, True), (5, True), (6, False), (7, False)]:
        evidence.add(value, canary=canary)
    assert seen == [([3], [1, 2]), ([4, 5], [6])]
    assert (evidence.canary.n, evidence.canary.mean, evidence.champion.n) == (3, 4.0, 4)


def test_harms() -> None:
    assert rise([1, 0], [0, 0, 1, 0]) == pytest.approx(0.25)
    assert loss([0.5], [0.9, 0.7]) == pytest.approx(0.3)
    assert slower(1.25)([10.0], [7.9, 8.0, 8.1, 20.0]) == 0.25
