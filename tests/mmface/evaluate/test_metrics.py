"""Metrics equal their closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_jaccard_index,
)
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image import MultiScaleStructuralSimilarityIndexMeasure

from mmface.data.portraits import HAIR_COLOURS
from mmface.errors import InputError
from mmface.evaluate.measuring import metrics

PAPER = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def _iou(predicted: torch.Tensor, given: torch.Tensor) -> list[float]:
    return metrics.mask_iou(metrics.label_counts(predicted, given)).tolist()


def test_a_perfect_mask_scores_one() -> None:
    mask = torch.randint(0, 19, (3, 16, 16), generator=torch.Generator().manual_seed(0))
    assert metrics.mask_accuracy(metrics.label_counts(mask, mask)).tolist() == [1, 1, 1]
    assert _iou(mask, mask) == [1, 1, 1]


def test_iou_by_hand_over_labels_of_the_given_mask() -> None:
    given = torch.tensor([[[0, 0, 13, 13]]])
    painted = torch.tensor([[[0, 0, 13, 5]]])  # label 5 is not in the given mask, so it is not a class
    counts = metrics.label_counts(painted, given)
    assert metrics.mask_accuracy(counts).item() == 0.75
    assert [counts.hit[0, i].item() for i in (0, 5, 13)] == [2, 0, 1]
    assert [counts.given[0, i].item() for i in (0, 5, 13)] == [2, 0, 2]
    assert [counts.found[0, i].item() for i in (0, 5, 13)] == [2, 1, 1]
    assert all(one.dtype == torch.int64 and one.shape == (1, 19) for one in counts)
    assert _iou(painted, given) == pytest.approx([(1 + 1 / 2) / 2])
    assert _iou(given, painted) == pytest.approx([(1 + 1 / 2 + 0) / 3])


def test_masks_agree_with_torchmetrics_and_with_a_confusion_matrix() -> None:
    generator = torch.Generator().manual_seed(3)
    given = torch.randint(0, 12, (4, 16, 16), generator=generator)  # labels 12 to 18 are absent
    painted = torch.where(torch.rand(4, 16, 16, generator=generator) < 0.5, given, (given * 7 + 5) % 19)
    counts = metrics.label_counts(painted, given)
    for i in range(4):
        confusion = multiclass_confusion_matrix(painted[i], given[i], num_classes=19)  # rows: given
        assert torch.equal(counts.hit[i], confusion.diagonal())
        assert torch.equal(counts.given[i], confusion.sum(1))
        assert torch.equal(counts.found[i], confusion.sum(0))
        present = confusion.sum(1) > 0
        jaccard = multiclass_jaccard_index(painted[i], given[i], num_classes=19, average="none")
        assert metrics.mask_iou(counts)[i].item() == pytest.approx(jaccard[present].mean().item(), rel=1e-6)
        accuracy = multiclass_accuracy(painted[i], given[i], num_classes=19, average="micro")
        assert metrics.mask_accuracy(counts)[i].item() == pytest.approx(accuracy.item(), rel=1e-6)


def test_a_mask_of_one_label() -> None:
    given = torch.zeros(1, 8, 8, dtype=torch.long)
    assert _iou(given, given) == [1]
    assert _iou(given + 1, given) == [0]


def test_counts_do_not_depend_on_the_batch() -> None:
    masks = torch.randint(0, 19, (2, 5, 16, 16), generator=torch.Generator().manual_seed(0)).byte()
    together = metrics.label_counts(*masks)
    for i in range(5):
        alone = metrics.label_counts(masks[0, i : i + 1], masks[1, i : i + 1])
        assert all(torch.equal(one[0], all_[i]) for one, all_ in zip(alone, together, strict=True))


@pytest.mark.parametrize("label", [19, -1])
def test_a_label_outside_the_19_is_refused(label: int) -> None:
    good = torch.zeros(1, 4, 4, dtype=torch.long)
    with pytest.raises(InputError, match="mask: labels are 0 to 18"):
        metrics.label_counts(good + label, good)
    with pytest.raises(InputError, match=r"mask: masks of .* differ"):
        metrics.label_counts(good, good[:, :2])


def test_cosines() -> None:
    a, b = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    assert metrics.clip_score(a, b).tolist() == pytest.approx([100, 100 / math.sqrt(2)], rel=1e-6)


def test_feature_distance_is_zero_for_equal_directions_and_two_for_orthogonal_ones() -> None:
    x, y = torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
    x[:, 0], y[:, 1] = 5, 3
    assert metrics.feature_distance([x, x], [x * 7, x]).item() == pytest.approx(0, abs=1e-6)
    assert metrics.feature_distance([x, x], [y, x]).item() == pytest.approx((2 + 0) / 2)


def _noisy(side: int, sources: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(sources, 3, side, side, generator=generator) * 2 - 1
    return image, (image + torch.randn(image.shape, generator=generator) * 0.5).clamp(-1, 1)


def test_ssim_of_itself_is_one_and_falls_with_noise() -> None:
    image, noisy = _noisy(32)
    assert metrics.ssim(image, image).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert (metrics.ssim(noisy, image) < 0.9).all()
    assert metrics.ssim(noisy[:1], image[:1]).shape == (1,)


@pytest.mark.parametrize(
    ("side", "scales"), [(22, 2), (43, 2), (44, 3), (64, 3), (98, 3), (99, 4), (128, 4), (175, 4), (176, 5), (256, 5)]
)
def test_multi_scale_ssim_has_as_many_scales_as_fit(side: int, scales: int) -> None:
    exponents = metrics.ms_ssim_exponents(side)
    assert len(exponents) == scales
    assert sum(exponents) == pytest.approx(1)
    image, noisy = _noisy(side, 1)
    assert metrics.ms_ssim(image, image).item() == pytest.approx(1, abs=1e-5)
    assert 0 < metrics.ms_ssim(noisy, image).item() < 0.98
    assert exponents == pytest.approx([e / sum(PAPER[:scales]) for e in PAPER[:scales]])


def test_multi_scale_ssim_agrees_with_torchmetrics_and_with_its_definition() -> None:
    image, noisy = _noisy(192)
    reference = MultiScaleStructuralSimilarityIndexMeasure(data_range=2.0, reduction="none")
    assert metrics.ms_ssim(noisy, image).tolist() == pytest.approx(reference(noisy, image).tolist(), rel=1e-4)
    # At 32 px: contrast and structure of the image, times the whole similarity of the half-sized image.
    image, noisy = _noisy(32)
    _, contrast = structural_similarity_index_measure(
        noisy, image, data_range=2.0, reduction="none", return_contrast_sensitivity=True
    )
    halves = (torch.nn.functional.avg_pool2d(one, 2) for one in (noisy, image))
    fine, coarse = metrics.ms_ssim_exponents(32)
    expected = contrast.reshape(2) ** fine * metrics.ssim(*halves) ** coarse
    assert metrics.ms_ssim(noisy, image).tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_images_too_small_for_multi_scale_ssim_are_refused() -> None:
    with pytest.raises(InputError, match="resolution: multi-scale SSIM needs at least 22 pixels, not 21"):
        metrics.ms_ssim_exponents(21)


def test_constant_images_and_images_that_are_not_finite() -> None:
    grey, white = torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64)
    assert metrics.ssim(grey, grey).item() == metrics.ms_ssim(grey, grey).item() == pytest.approx(1)
    assert metrics.ms_ssim(grey, white).item() < 0.6
    broken = torch.full_like(grey, math.nan)
    assert math.isnan(metrics.ssim(broken, grey).item())
    assert math.isnan(metrics.ms_ssim(broken, grey).item())
    with pytest.raises(InputError, match=r"image: .* not finite"):
        metrics.hair_word(broken[0], torch.full((64, 64), 13))


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
