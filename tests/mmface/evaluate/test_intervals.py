"""Intervals of figures: how often they cover the true value, and the cases in which there is no spread."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from mmface.evaluate.deciding.intervals import Counts, Floats, Method, bootstrap, count, mean_of, unseen
from mmface.evaluate.measuring import distances

SIMULATED = 1500


def coverage(values: Floats, truth: float, method: Method) -> float:
    """How often the intervals of the means of the columns [n, M] hold the true mean."""
    found = bootstrap(mean_of(values), len(values), method=method, resamples=1000)
    return float(((found.low <= truth) & (truth <= found.high)).mean())


@pytest.mark.parametrize("n", [20, 128])
def test_intervals_of_means_cover_the_true_mean_as_often_as_they_say(n: int) -> None:
    """Shares of 1,500 simulated evaluations; the binomial error of a share is 0.006."""
    random = np.random.default_rng(n)
    overlap = random.beta(8, 6, (n, SIMULATED))
    assert coverage(overlap, 8 / 14, "BCa") == pytest.approx(0.95, abs=0.02)
    difference = random.normal(0, 0.1, (n, SIMULATED)) - random.exponential(0.05, (n, SIMULATED))
    assert coverage(difference, -0.05, "percentile") == pytest.approx(0.95, abs=0.02)


def test_bca_covers_a_rate_near_one_where_percentiles_do_not() -> None:
    """Why means of one system take BCa: 96 % of the prompts obeyed, 128 rows."""
    obeyed = np.asarray(np.random.default_rng(0).random((128, SIMULATED)) < 0.96, np.float64)
    assert coverage(obeyed, 0.96, "BCa") > 0.94
    assert coverage(obeyed, 0.96, "percentile") < 0.92


def test_percentiles_hold_the_level_for_differences_of_rates_where_bca_does_not() -> None:
    """Why differences take percentiles: 8 % of the rows differ, in either direction, 32 rows."""
    differing = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], (32, SIMULATED), p=[0.04, 0.92, 0.04])
    assert coverage(differing, 0.0, "percentile") > 0.95 > coverage(differing, 0.0, "BCa")


@pytest.mark.parametrize("kind", ["kid", "frechet"])
def test_intervals_of_distances_cover_their_expectation(kind: str) -> None:
    """KID covers the distance of the distributions, Fréchet its expectation at this n."""
    random = np.random.default_rng(1)
    n, width, shift, simulated = 48, 3, 0.5, 60
    drawn = random.normal(shift, 1, (simulated, n, width))
    real = random.normal(0, 1, (simulated, n, width))
    resampled = distances.resampled_kid if kind == "kid" else distances.resampled_frechet
    of_sets = distances.kid if kind == "kid" else distances.frechet
    expected = np.mean([of_sets(drawn[i], real[i]) for i in range(simulated)])
    method: Method = "percentile" if kind == "kid" else "centred percentile"
    held = 0
    for i in range(simulated):

        def statistic(counts: Counts, i: int = i) -> Floats:
            return resampled(drawn[i], real[i], counts)[None]

        found = bootstrap(statistic, n, method=method, resamples=100)
        held += int(found.low[0] <= expected <= found.high[0])
    assert held / simulated == pytest.approx(0.95, abs=0.07)


def test_an_interval_of_many_normal_values_is_students() -> None:
    values = np.random.default_rng(0).normal(size=(400, 1))
    found = bootstrap(mean_of(values), 400, method="percentile", resamples=20000)
    error = values.std(ddof=1) / 20
    reach = stats.t.ppf(0.975, 399) * error
    assert found.high[0] - found.low[0] == pytest.approx(2 * reach, rel=0.03)
    assert found.error[0] == pytest.approx(error, rel=0.02)


def test_the_same_seed_gives_the_same_interval_and_another_another() -> None:
    values = np.random.default_rng(0).normal(size=(40, 1))

    def low(seed: int) -> float:
        return float(bootstrap(mean_of(values), 40, method="BCa", seed=seed).low[0])

    assert low(0) == low(0)
    assert low(0) != low(1)


@pytest.mark.parametrize("method", ["BCa", "percentile", "centred percentile"])
def test_equal_values_have_an_interval_without_width(method: Method) -> None:
    found = bootstrap(mean_of(np.full((8, 1), 0.25)), 8, method=method)
    assert (found.low[0], found.high[0], found.error[0]) == (0.25, 0.25, 0.0)


def test_a_single_row_has_no_interval() -> None:
    found = bootstrap(mean_of(np.ones((1, 1))), 1, method="percentile")
    assert math.isnan(found.low[0])
    assert math.isnan(found.high[0])


def test_a_value_that_is_not_a_number_has_no_interval_and_leaves_its_neighbour_alone() -> None:
    values = np.random.default_rng(0).normal(size=(30, 2))
    alone = bootstrap(mean_of(values[:, 1:]), 30, method="BCa")
    values[4, 0] = math.nan
    found = bootstrap(mean_of(values), 30, method="BCa")
    assert math.isnan(found.low[0])
    assert found.low[1] == pytest.approx(alone.low[0])


def test_rows_are_counted() -> None:
    assert count(np.array([[0, 0, 2], [1, 2, 2]]), 4).tolist() == [[2, 0, 1, 0], [0, 1, 2, 0]]


def test_the_largest_rate_of_an_unseen_event_is_the_exact_binomial_one() -> None:
    for n in (5, 128):
        exact = stats.binomtest(0, n).proportion_ci(0.9, method="exact").high
        assert unseen(n, 0.95) == pytest.approx(exact)


def test_memory_does_not_grow_with_rows_times_resamples() -> None:
    """1,000 resamples of 20,000 rows at once would be 160 MB of row numbers, several times over."""
    values = np.random.default_rng(0).normal(size=(20_000, 1))
    tracemalloc.start()
    bootstrap(mean_of(values), len(values), method="percentile", resamples=1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 120e6
