"""Paired comparisons: false alarms of equal systems, power at the printed difference, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from mmface.errors import InputError
from mmface.evaluate.deciding.compare import Difference, Row, compare, difference
from mmface.evaluate.deciding.intervals import Floats, bootstrap, mean_of
from mmface.evaluate.scores import Measure, Scores
from tests.mmface.evaluate.simulated import MEASURES, name_of, simulate

N, PAIRS = 128, 2000
Draw = Callable[[np.random.Generator, int], Floats]
NORMAL: Draw = lambda random, n: random.normal(0, 0.05, (n, PAIRS))  # noqa: E731
SKEWED: Draw = lambda random, n: random.beta(8, 3, (n, PAIRS)) - random.beta(8, 3, (n, PAIRS))  # noqa: E731
RATES: Draw = lambda random, n: random.choice([-1.0, 0.0, 1.0], (n, PAIRS), p=[0.03, 0.94, 0.03])  # noqa: E731


def alarms(differences: Floats, level: float) -> tuple[float, float]:
    """How often the one-sided limits of the columns at ``level`` exclude 0: worse, better."""
    found = bootstrap(mean_of(differences), len(differences), method="percentile", level=2 * level - 1)
    return float((found.high < 0).mean()), float((found.low > 0).mean())


@pytest.mark.parametrize("draw", [NORMAL, SKEWED, RATES], ids=["normal", "skewed", "rates"])
def test_equal_systems_are_told_apart_as_rarely_as_the_level_says(draw: Draw) -> None:
    """2,000 pairs at once; the binomial error of a share is 0.005."""
    for share in alarms(draw(np.random.default_rng(3), N), 0.95):
        assert share <= 0.065


def test_the_smallest_detectable_difference_is_detected_with_the_asked_power() -> None:
    random = np.random.default_rng(4)
    noise = random.normal(0, 0.05, (2, N))
    one = difference(simulate({"mask/miou": noise[0]}), simulate({"mask/miou": noise[1]}), "mask/miou", level=0.9)
    assert one.detectable == pytest.approx((1.6449 + 0.8416) * np.std(noise[0] - noise[1], ddof=1) / N**0.5, rel=0.06)
    spread = 0.05 * math.sqrt(2)
    shift = (1.6449 + 0.8416) * spread / math.sqrt(N)
    _, better = alarms(random.normal(shift, spread, (N, PAIRS)), 0.95)
    assert better == pytest.approx(0.8, abs=0.04)


def test_with_the_rows_that_a_margin_needs_it_is_detected_with_the_asked_power() -> None:
    random = np.random.default_rng(5)
    noise = random.normal(0, 0.05, (2, N))
    one = difference(simulate({"mask/miou": noise[0]}), simulate({"mask/miou": noise[1]}), "mask/miou", level=0.9)
    rows = one.rows_for(0.01)
    assert rows is not None
    _, better = alarms(random.normal(0.01, np.std(noise[0] - noise[1], ddof=1), (rows, PAIRS)), 0.95)
    assert better == pytest.approx(0.8, abs=0.05)


def test_a_difference_is_paired_by_photograph_and_not_by_place() -> None:
    """Rows vary far more than the systems differ; shuffled rows give the same small interval."""
    random = np.random.default_rng(6)
    level = random.normal(0.5, 0.2, N)
    shifted, order = level + 0.01 + random.normal(0, 0.002, N), random.permutation(N)
    a = simulate({"mask/miou": shifted[order]}, ids=[int(i) for i in order])
    one = difference(a, simulate({"mask/miou": level}), "mask/miou")
    assert one.value == pytest.approx(float(np.mean(shifted - level)))
    assert one.low is not None
    assert one.low > 0.009
    assert one.verdict == "better"


def test_the_direction_of_better_is_that_of_the_metric() -> None:
    noise = np.random.default_rng(7).normal(0, 0.01, (2, N))
    columns = [
        {"mask/clip_distance": mean + noise[i], "mask/source_miou": mean + noise[i]} for i, mean in ((0, 1), (1, 0))
    ]
    a, b = (simulate(one) for one in columns)
    assert difference(a, b, "mask/clip_distance").verdict == "worse"
    assert difference(b, a, "mask/clip_distance").verdict == "better"
    assert difference(a, b, "mask/source_miou").verdict == "not told apart"


def test_rows_that_differ_most_come_first() -> None:
    a = simulate({"mask/miou": [0.5, 0.9, 0.5, 0.1]})
    b = simulate({"mask/miou": [0.5, 0.5, 0.4, 0.9]})
    rows = difference(a, b, "mask/miou").rows
    assert rows[0] == Row(image_id=name_of(3), a=0.1, b=0.9)
    assert [row.image_id for row in rows] == [name_of(3), name_of(1), name_of(2)]


def test_only_common_rows_are_compared() -> None:
    values = np.random.default_rng(8).normal(size=40)
    a = simulate({"mask/miou": values[:30]}, ids=range(30))
    b = simulate({"mask/miou": values[10:]}, ids=range(10, 40))
    one = difference(a, b, "mask/miou")
    assert (one.n, one.value, one.low, one.high) == (20, 0.0, 0.0, 0.0)


def far(shift: float, **settings: object) -> Scores:
    faces = np.random.default_rng(9).normal(size=(2, 64, 4)).astype(np.float32)
    moved = (faces[0] + np.float32(shift), faces[1])
    return simulate({"mask/miou": [0.5] * 64}, features=moved, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["mask/kid", "mask/frechet", "mask/fid"])
def test_distances_are_compared_on_the_same_resamples(name: str) -> None:
    one, none = difference(far(1.0), far(0.1), name), difference(far(0.5), far(0.5), name)
    assert one.verdict == "worse"
    assert (none.value, none.low, none.high) == (0.0, 0.0, 0.0)
    assert difference(far(0.1), far(1.0), name).verdict == "better"


def test_unlike_systems_are_refused_with_what_differs() -> None:
    a = far(0.0)
    for field, b, said in (
        ("evaluate.set", far(0.0, evalset="fedcba9876543210"), "0123456789abcdef and fedcba9876543210"),
        ("resolution", far(0.0, resolution=64), "128 and 64 pixels"),
        ("rows", far(0.0, ids=range(100, 164)), "no row"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            compare(a, b)
        assert caught.value.field == field


def test_a_figure_of_another_extractor_is_unavailable_and_both_are_named() -> None:
    other = {**MEASURES, "miou": Measure(better="higher", extractor="zoo-parser-76543210")}
    found = {one.name: one for one in compare(far(0.0), far(0.0, measures=other))}
    assert "zoo-parser-01234567 and zoo-parser-76543210" in found["mask/miou"].unavailable
    assert found["mask/kid"].value == 0.0


def test_a_name_that_is_missing_or_unavailable_says_why() -> None:
    a = far(0.0)
    missing, without = compare(a, a, ["mask/mio", "mask/lpips"])
    assert "known and similar: mask/miou" in missing.unavailable
    assert "set metrics.lpips" in without.unavailable


def test_a_row_that_is_not_a_number_leaves_no_difference() -> None:
    a = simulate({"mask/miou": [math.nan, 0.5, 0.6]})
    one = difference(a, simulate({"mask/miou": [0.4, 0.5, 0.6]}), "mask/miou")
    assert (one.value, one.low, one.high, one.error, one.rows) == (None, None, None, None, ())
    assert Difference.model_validate_json(one.model_dump_json()) == one


def test_one_common_row_gives_a_difference_without_interval() -> None:
    one = difference(simulate({"mask/miou": [0.5]}), simulate({"mask/miou": [0.25]}), "mask/miou")
    assert (one.value, one.low, one.detectable, one.n) == (0.25, None, None, 1)
    assert one.verdict == "not told apart"
