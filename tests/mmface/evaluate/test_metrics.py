"""Metrics equal their closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.image.fid import _compute_fid

from mmface.data.portraits import HAIR_COLOURS
from mmface.evaluate import metrics


def test_a_perfect_mask_scores_one() -> None:
    mask = torch.randint(0, 19, (3, 16, 16), generator=torch.Generator().manual_seed(0))
    assert metrics.mask_accuracy(mask, mask).tolist() == [1, 1, 1]
    assert metrics.mask_iou(mask, mask).tolist() == [1, 1, 1]


def test_iou_by_hand_over_labels_of_the_given_mask() -> None:
    given = torch.tensor([[[0, 0, 13, 13]]])
    painted = torch.tensor([[[0, 0, 13, 5]]])  # label 5 is not in the given mask, so it is not a class
    assert metrics.mask_accuracy(painted, given).item() == 0.75
    assert metrics.mask_iou(painted, given).item() == pytest.approx((1 + 1 / 2) / 2)
    assert metrics.mask_iou(given, painted).item() == pytest.approx((1 + 1 / 2 + 0) / 3)


def test_cosines() -> None:
    a, b = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    assert metrics.clip_score(a, b).tolist() == pytest.approx([100, 100 / math.sqrt(2)], rel=1e-6)


def test_feature_distance_is_zero_for_equal_directions_and_two_for_orthogonal_ones() -> None:
    x, y = torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
    x[:, 0], y[:, 1] = 5, 3
    assert metrics.feature_distance([x, x], [x * 7, x]).item() == pytest.approx(0, abs=1e-6)
    assert metrics.feature_distance([x, x], [y, x]).item() == pytest.approx((2 + 0) / 2)


def test_ssim_of_itself_is_one_and_falls_with_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
    noisy = (image + torch.randn(image.shape, generator=generator) * 0.5).clamp(-1, 1)
    assert metrics.ssim(image, image).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert (metrics.ssim(noisy, image) < 0.9).all()
    assert metrics.ssim(noisy[:1], image[:1]).shape == (1,)


@pytest.mark.parametrize("n", [8, 400])
def test_frechet_of_a_set_with_itself_is_zero(n: int) -> None:
    features = torch.randn(n, 64, generator=torch.Generator().manual_seed(0))
    assert metrics.frechet(features, features) == pytest.approx(0, abs=1e-9)


def test_frechet_of_gaussians_has_its_closed_form() -> None:
    """For commuting covariances: shift squared + sum of (sigma_a - sigma_b) squared; exact for a scaled copy."""
    features = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).double()
    shift, scale = torch.arange(6).double(), 3.0
    centre = features.mean(0)
    other = (features - centre) * scale + centre + shift
    expected = shift.square().sum() + (scale - 1) ** 2 * features.var(0).sum()
    assert metrics.frechet(features, other) == pytest.approx(float(expected), rel=1e-10)


def test_frechet_agrees_with_torchmetrics_and_is_symmetric() -> None:
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(300, 8, generator=generator).double()
    b = (torch.randn(200, 8, generator=generator).double() @ torch.randn(8, 8, generator=generator).double()) + 1
    expected = _compute_fid(a.mean(0), torch.cov(a.T), b.mean(0), torch.cov(b.T))
    assert metrics.frechet(a, b) == pytest.approx(float(expected), rel=1e-9)
    assert metrics.frechet(a, b) == pytest.approx(metrics.frechet(b, a), rel=1e-9)


def test_frechet_with_fewer_samples_than_features_agrees_in_the_space_they_span() -> None:
    """Zero columns change nothing about two distributions, only make the covariances singular."""
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.randn(10, 4, generator=generator).double() for _ in range(2))
    padded = [torch.cat([x, torch.zeros(10, 60, dtype=torch.double)], dim=1) for x in (a, b)]
    assert metrics.frechet(*padded) == pytest.approx(metrics.frechet(a, b), rel=1e-9)


def _line(column: int, side: int = 32) -> torch.Tensor:
    sketch = torch.ones(1, side, side)
    sketch[:, :, column] = 0
    return sketch


@pytest.mark.parametrize(("shift", "expected"), [(0, 1), (1, 1), (2, 1), (3, 0), (10, 0)])
def test_edges_agree_within_two_pixels(shift: int, expected: float) -> None:
    assert metrics.edge_agreement(_line(10), _line(10 + shift)).item() == expected


def test_half_of_the_lines_found() -> None:
    both = torch.minimum(_line(5), _line(20))
    assert metrics.edge_agreement(_line(5), both).item() == pytest.approx(2 * 1 * 0.5 / 1.5)


def test_empty_sketches() -> None:
    empty = torch.ones(1, 32, 32)
    assert metrics.edge_agreement(empty, empty).item() == 1
    assert metrics.edge_agreement(empty, _line(3)).item() == 0


@given(st.sampled_from(sorted(HAIR_COLOURS)))
def test_hair_painted_in_a_words_colour_is_that_word(word: str) -> None:
    mask = torch.zeros(16, 16, dtype=torch.long)
    mask[:4] = 13
    image = torch.full((3, 16, 16), 0.3)
    image[:, :4] = torch.tensor(HAIR_COLOURS[word])[:, None, None] / 127.5 - 1
    assert metrics.hair_word(image, mask) == word


def test_no_hair_has_no_word() -> None:
    assert metrics.hair_word(torch.zeros(3, 16, 16), torch.zeros(16, 16, dtype=torch.long)) is None


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("A young woman with short wavy brown hair, smiling.", "brown"),
        ("age: old; hair: long straight white; expression: neutral", "white"),
        ("The lady wears a red top, smiling; her hair is short curly black.", "black"),
        ("a person with blonde hair", "blond"),
        ("He has receding gray hair and blue eyes", "grey"),
        ("A man with a bald head wearing a black t-shirt.", None),
        ("a man; hair: bald; brown eyes; wearing: a red cap", None),
    ],
)
def test_the_hair_colour_that_a_prompt_names(prompt: str, word: str | None) -> None:
    assert metrics.prompted_hair(prompt) == word


def test_slugs() -> None:
    assert metrics.slug("zoo:clip") == "zoo-clip"
    assert metrics.slug("openai/clip-vit-base-patch32") == "clip-vit-base-patch32"
