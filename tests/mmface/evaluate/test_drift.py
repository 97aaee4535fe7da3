"""The comparison of two samples: known distances, levels that hold, ties, and samples that are too small."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import kstest

from mmface.evaluate import drift
from mmface.evaluate.drift import Measured, compare, distances, gaussian_kernel, likeness, read_measured, write_measured
from mmface.store import Store

LEVEL, LEAST = 0.95, 0.02


def normal(seed: int, n: int, width: int = 4, shift: float = 0.0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(n, width)) + shift


def test_the_distance_is_the_mean_of_kernels_by_definition() -> None:
    new, reference = normal(1, 5), normal(2, 7, shift=1.0)
    rows = np.concatenate([new, reference])
    pairs = [math.dist(a, b) for i, a in enumerate(rows) for b in rows[:i]]
    width = np.median(np.square(pairs))

    def kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        return math.exp(-(math.dist(a, b) ** 2) / (2 * width))

    def within(some: NDArray[np.float64]) -> float:
        return float(np.mean([kernel(a, b) for i, a in enumerate(some) for j, b in enumerate(some) if i != j]))

    expected = within(new) + within(reference) - 2 * np.mean([kernel(a, b) for a in new for b in reference])
    assert compare(new, reference, LEVEL, LEAST).distance == pytest.approx(expected, abs=1e-11)


def test_two_points_have_a_distance_by_hand() -> None:
    """All rows of a side are equal and the median counts different rows alone: every pair across has exp(-1/2)."""
    found = compare(np.zeros((30, 2)), np.ones((40, 2)), LEVEL, LEAST)
    assert found.distance == pytest.approx(2 - 2 * math.exp(-0.5))
    assert found.verdict == "drifted"
    assert found.p_value == 1 / (drift.PERMUTATIONS + 1)  # the given split counts as one of them


def test_without_drift_p_values_are_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "PERMUTATIONS", 199)
    found = [compare(normal(seed, 12), normal(1000 + seed, 30), LEVEL, LEAST) for seed in range(300)]
    p_values = np.array([one.p_value for one in found])
    assert kstest(p_values, "uniform").pvalue > 0.01
    assert 0.02 < (p_values <= 0.05).mean() < 0.09


@pytest.mark.parametrize("far", ["mean", "spread", "one side"])
def test_a_shift_is_detected(far: str) -> None:
    new = {"mean": normal(1, 60, shift=1.0), "spread": 3 * normal(1, 60), "one side": abs(normal(1, 60))}[far]
    found = compare(new, normal(2, 200), 0.99, LEAST)
    assert found.verdict == "drifted"
    assert found.p_value is not None
    assert found.p_value <= 0.001


def test_a_difference_that_is_found_but_small_is_no_drift() -> None:
    found = compare(normal(1, 400, shift=0.3), normal(2, 400), 0.99, 0.1)
    assert found.p_value is not None
    assert found.p_value <= 0.01
    assert found.verdict == "not drifted"


def test_equal_rows_have_no_distance() -> None:
    found = compare(np.ones((9, 3)), np.ones((20, 3)), LEVEL, LEAST)
    assert (found.distance, found.p_value, found.verdict) == (0.0, 1.0, "not drifted")


def test_splits_that_differ_by_equal_rows_are_ties() -> None:
    """Half of all splits are as far apart: a test that counted rounding noise as farther would give less."""
    rows = np.repeat([[0.0], [1.0]], 10, axis=0)
    found = compare(rows[::2], rows[1::2], LEVEL, LEAST)  # 5 of each on both sides: the least distance there is
    assert found.p_value == 1.0


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_rows_for_a_distance_say_how_many_would_do(n: int) -> None:
    reference = normal(2, 300)
    found = compare(normal(1, n), reference, 0.99, LEAST)
    assert (found.verdict, found.distance, found.p_value) == ("cannot tell", None, None)
    assert found.needed is not None
    assert 20 < found.needed < 200
    assert compare(normal(1, 2 * found.needed), reference, 0.99, LEAST).verdict == "not drifted"


def test_few_rows_cannot_tell_and_the_number_that_they_ask_for_can() -> None:
    reference = normal(2, 200)
    few = compare(normal(1, 10), reference, 0.99, LEAST)
    assert few.verdict == "cannot tell"
    assert few.needed is not None
    assert few.needed > 10
    asked = compare(normal(3, few.needed), reference, 0.99, LEAST)
    assert asked.critical is not None
    assert 2 * asked.critical == pytest.approx(LEAST, rel=0.3)
    assert compare(normal(4, 2 * few.needed), reference, 0.99, LEAST).verdict == "not drifted"


def test_a_test_that_can_reject_nothing_cannot_tell() -> None:
    """Of 3 and 2 rows there are 10 splits: no p-value below 0.1, however far apart they are."""
    found = compare(np.full((3, 1), 9.0) + normal(1, 3, 1), normal(2, 2, 1), 0.99, 1.9)
    assert found.p_value == pytest.approx(0.1)
    assert found.verdict == "cannot tell"
    assert found.needed is not None
    assert math.comb(found.needed + 2, 2) >= 100


@given(n=st.integers(2, 12), m=st.integers(2, 12), seed=st.integers(0, 1000))
def test_distances_do_not_depend_on_order_or_side(n: int, m: int, seed: int) -> None:
    new, reference = normal(seed, n), normal(seed + 1, m)
    sides = np.arange(n + m)[None] < n
    one = distances(gaussian_kernel(np.concatenate([new, reference])), sides)
    other = distances(gaussian_kernel(np.concatenate([new[::-1], reference])), sides)
    swapped = distances(gaussian_kernel(np.concatenate([reference, new])), np.arange(n + m)[None] < m)
    assert one == pytest.approx(other, abs=1e-11)
    assert one == pytest.approx(swapped, abs=1e-11)


def test_the_least_alike_row_is_the_outlier() -> None:
    new = normal(1, 20)
    new[7] += 50
    assert int(likeness(new, normal(2, 50)).argmin()) == 7


def test_the_same_samples_give_the_same_figures() -> None:
    assert compare(normal(1, 40), normal(2, 60), 0.99, LEAST) == compare(normal(1, 40), normal(2, 60), 0.99, LEAST)


def test_stored_figures_are_read_back(tmp_path) -> None:
    home, found = Store(tmp_path), compare(normal(1, 40), normal(2, 60), 0.99, LEAST)
    assert read_measured(home, "m") == {}
    one = Measured(content="c", training="t", version="3", announced=True, at="2026-01-01T00:00:00+00:00", drift=found)
    write_measured(home, "m", {"photographs": one})
    assert read_measured(home, "m") == {"photographs": one}
    assert read_measured(home, "other") == {}
