"""Distances between feature sets equal closed forms and independent implementations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.image.kid import poly_mmd

from mmface.errors import InputError
from mmface.evaluate.measuring import distances
from mmface.evaluate.measuring.distances import (
    Floats,
    cmmd,
    frechet,
    kid,
    nearest,
    resampled_cmmd,
    resampled_kid,
)
from mmface.evaluate.scores import memorised

DISTANCES = (frechet, kid, cmmd)


def normal(n: int, width: int = 8, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=(n, width))


def pairs(n: int, width: int = 8) -> tuple[Floats, Floats]:
    """Generated images that resemble their photographs."""
    photographs = normal(n, width)
    return 0.7 * photographs + 0.7 * normal(n, width, 1) + 0.1, photographs


@pytest.mark.parametrize("n", [8, 400])
def test_frechet_of_a_set_with_itself_is_zero(n: int) -> None:
    assert frechet(normal(n, 64), normal(n, 64)) == pytest.approx(0, abs=1e-9)


def test_frechet_of_gaussians_has_its_closed_form() -> None:
    """For commuting covariances: shift squared + sum of (sigma_a - sigma_b) squared; exact for a scaled copy."""
    features, shift, scale = normal(50, 6), np.arange(6.0), 3.0
    centre = features.mean(0)
    other = (features - centre) * scale + centre + shift
    expected = (shift**2).sum() + (scale - 1) ** 2 * features.var(0, ddof=1).sum()
    assert frechet(features, other) == pytest.approx(expected, rel=1e-10)


def test_frechet_of_two_points_each_has_its_closed_form() -> None:
    """Covariances of rank one, d d^T / 2 with the points' difference d: their root has the trace |d_a . d_b| / 2."""
    a, b = np.array([[0.0, 0, 0], [2, 0, 0]]), np.array([[1.0, 1, 0], [1, 3, 4]])
    shift, first, second = a.mean(0) - b.mean(0), a[1] - a[0], b[1] - b[0]
    expected = (shift**2).sum() + (first @ first + second @ second) / 2 - abs(first @ second)
    assert frechet(a, b) == pytest.approx(expected)


def test_frechet_agrees_with_scipys_matrix_root_and_is_symmetric() -> None:
    a, b = normal(300), normal(200, seed=1) @ normal(8, seed=2) + 1
    left, right = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(left @ right).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(left + right - 2 * root)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet(b, a) == pytest.approx(expected, rel=1e-9)


def test_frechet_with_fewer_samples_than_features_agrees_in_the_space_they_span() -> None:
    """Zero columns change nothing about two distributions, only make the covariances singular."""
    a, b = normal(10, 4), normal(10, 4, 1)
    padded = [np.concatenate([x, np.zeros((10, 60))], axis=1) for x in (a, b)]
    assert frechet(*padded) == pytest.approx(frechet(a, b), rel=1e-9)


@pytest.mark.parametrize("block", [7, 1024])
def test_kid_agrees_with_torchmetrics(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "BLOCK", block)
    a, b = pairs(40, 16)
    expected = float(poly_mmd(torch.from_numpy(b), torch.from_numpy(a)))
    assert kid(a, b) == pytest.approx(expected, rel=1e-9)
    assert kid(a.astype(np.float32), b) == pytest.approx(expected, rel=1e-5)


def test_kernel_distances_are_unbiased() -> None:
    """Sets of one distribution have a mean of 0 at every size; the biased estimator would give 1000 (2 - 2 k) / n."""
    draws = np.random.default_rng(0).normal(size=(400, 2, 10, 8))
    for distance in (kid, cmmd):
        values = np.array([distance(*draw) for draw in draws])
        assert abs(values.mean()) < 3.5 * values.std() / 20
        assert values.min() < 0


def test_cmmd_by_hand() -> None:
    """Unit vectors at right angles: squared distance 2 within a set and across; 0 between equal directions."""
    a, b = np.array([[2.0, 0], [0, 3]]), np.array([[1.0, 0], [1, 0]])
    right, same = np.exp(-2 / 200), 1.0
    assert cmmd(a, b) == pytest.approx(1000 * (right + same - 2 * (2 * same + 2 * right) / 4))


def counted(n: int, resamples: int) -> np.ndarray:
    return np.random.default_rng(5).multinomial(n, [1 / n] * n, size=resamples)


@pytest.mark.parametrize("block", [7, 1024])
def test_resampled_distances_leave_out_a_row_with_itself(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pairs(30)
    counts = counted(30, 4)
    expected = [_by_pairs(a, b, np.repeat(np.arange(30), one)) for one in counts]
    monkeypatch.setattr(distances, "BLOCK", block)
    assert resampled_kid(a, b, counts).tolist() == pytest.approx(expected, rel=1e-9)


def _by_pairs(a: Floats, b: Floats, rows: np.ndarray) -> float:
    """The definition, pair by pair of the drawn rows, duplicates included."""
    kernel = [(x[rows] @ y[rows].T / 8 + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))]
    different = rows[:, None] != rows
    across = (len(rows) - 1) / len(rows) * kernel[2][different].mean() + kernel[2].diagonal().mean() / len(rows)
    return float(kernel[0][different].mean() + kernel[1][different].mean() - 2 * across)


def test_a_resample_of_every_row_once_is_the_distance_and_of_a_block_that_of_the_block() -> None:
    a, b = pairs(30)
    half = np.array([[1] * 30, [1] * 10 + [0] * 20])
    for distance, resampled in ((kid, resampled_kid), (cmmd, resampled_cmmd), (frechet, distances.resampled_frechet)):
        assert resampled(a, b, half).tolist() == pytest.approx([distance(a, b), distance(a[:10], b[:10])], rel=1e-8)


def test_resamples_spread_around_the_distance() -> None:
    """Counting duplicates with themselves would move the mean by about (3 - 1) * 2 / n."""
    a, b = pairs(60)
    values = resampled_kid(a, b, counted(60, 500))
    assert values.mean() == pytest.approx(kid(a, b), abs=0.25 * values.std())


@pytest.mark.parametrize("distance", DISTANCES)
def test_identical_constant_and_single_rows(distance: Callable[[Floats, Floats], float]) -> None:
    same = normal(20)
    assert distance(same, same) <= 1e-9  # below 0 where the estimator is unbiased
    constant = np.full((5, 8), 0.5)
    assert distance(constant, constant) == pytest.approx(0, abs=1e-9)
    assert distance(constant, -constant) > 0
    with pytest.raises(InputError, match=r"n: .* at least 2 images, not 1"):
        distance(same[:1], same)
    with pytest.raises(InputError, match=r"features: .* not finite"):
        distance(same, np.where(np.eye(20, 8) > 0, np.nan, same))


def test_zero_features_have_a_distance() -> None:
    assert cmmd(np.zeros((3, 4)), np.zeros((3, 4))) == 0


def test_resamples_that_say_nothing_are_refused() -> None:
    a, b = pairs(4)
    with pytest.raises(InputError, match=r"counts: .* two different rows"):
        resampled_kid(a, b, np.array([[4, 0, 0, 0]]))
    with pytest.raises(InputError, match=r"counts: .* one count for each row"):
        resampled_kid(a, b[:3], np.ones((1, 4), int))


@given(st.integers(1, 7))
def test_the_nearest_row_in_any_blocks(size: int) -> None:
    ours, theirs = normal(5), normal(11, seed=1)
    cosine = [[1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in theirs] for x in ours]
    blocks = [theirs[i : i + size] for i in range(0, 11, size)]
    assert nearest(ours, [*blocks, theirs[:0]]).tolist() == pytest.approx([min(row) for row in cosine])


def test_nearest_of_copies_and_of_nothing() -> None:
    ours = normal(3)
    assert nearest(ours, [2 * ours[::-1]]).tolist() == pytest.approx([0, 0, 0])
    assert np.isinf(nearest(ours, [])).all()


def test_memorised_samples_lie_nearer_than_the_first_percentile_of_held_out_photographs() -> None:
    train, held_out, fresh = normal(2000, 16), normal(1000, 16, 1), normal(1000, 16, 2)
    copies = np.concatenate([fresh[:900], train[:100] + 0.01 * normal(100, 16, 3)])
    blocks = [train[:1500], train[1500:]]
    known = nearest(held_out, blocks)
    assert memorised(nearest(copies, blocks), known).mean() == pytest.approx(0.1, abs=0.015)
    assert memorised(nearest(fresh, blocks), known).mean() < 0.025
    assert memorised(known, known).mean() == 0.01


@pytest.mark.parametrize(("samples", "held_out"), [([0.1], []), ([np.nan], [0.1]), ([0.1], [np.nan])])
def test_memorisation_without_a_reference_is_refused(samples: list[float], held_out: list[float]) -> None:
    with pytest.raises(InputError, match="memorised"):
        memorised(np.array(samples), np.array(held_out))
