"""Figures of a system: means, overlap of labels, distances, groups, and what is unavailable."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmface.evaluate.deciding.summary import by_group, flat, read_figures, summarise, write_figures
from mmface.evaluate.figures import Figure
from mmface.evaluate.measuring import distances
from mmface.evaluate.scores import Scores
from mmface.imaging.labels import LABELS
from tests.mmface.evaluate.simulated import CLIP, simulate

N = 24
random = np.random.default_rng(0)
MIOU = random.beta(8, 6, N)
FACES = random.normal(size=(2, N, 4)).astype(np.float32)
GIVEN = random.integers(1, 100, (N, 19))
HIT = random.integers(0, GIVEN + 1)
FOUND = HIT + random.integers(0, 50, (N, 19))
GIVEN[:, LABELS.index("hat")] = HIT[:, LABELS.index("hat")] = 0


def scores() -> Scores:
    columns = {
        "mask/miou": MIOU,
        "mask/hair_colour_accuracy": [1.0, *[None] * 3, *[1.0] * (N - 4)],
        "sketch/edge_agreement": [0.75] * N,
        "unconditional/edge_agreement": [0.25] * N,
    }
    labels = {"hit": HIT, "given": GIVEN, "found": FOUND}
    groups = [{"hair": "black" if i < 10 else "blond", "glasses": "yes" if i < 2 else "no"} for i in range(N)]
    return simulate(columns, labels=labels, groups=groups, features=(FACES[0], FACES[1]))


@pytest.fixture(scope="module")
def figures() -> dict[str, Figure]:
    return {figure.name: figure for figure in summarise(scores(), min_frechet_n=N)}


def test_means_are_those_of_the_rows_that_have_the_metric(figures: dict[str, Figure]) -> None:
    miou = figures["mask/miou"]
    assert miou.value == math.fsum(MIOU) / N
    assert miou.low is not None
    assert miou.high is not None
    assert miou.low < miou.value < miou.high
    assert (miou.n, miou.better, miou.extractor, miou.resolution) == (N, "higher", "zoo-parser-01234567", 128)
    assert miou.preprocessing == "whole image"
    assert miou.interval == "BCa bootstrap over rows, 2,000 resamples"
    assert figures["mask/n"].value == N
    assert figures["mask/hair_colour_n"].value == N - 3
    assert figures["mask/hair_colour_accuracy"].n == N - 3


def test_the_interval_of_a_mean_does_not_depend_on_the_other_metrics(figures: dict[str, Figure]) -> None:
    alone = {figure.name: figure for figure in summarise(simulate({"mask/miou": MIOU}))}["mask/miou"]
    assert alone.low == pytest.approx(figures["mask/miou"].low)
    assert alone.high == pytest.approx(figures["mask/miou"].high)


def test_the_gain_of_the_sketch_is_the_difference_of_the_two_means(figures: dict[str, Figure]) -> None:
    assert figures["sketch/edge_agreement_baseline"].value == 0.25
    gain = figures["sketch/edge_agreement_gain"]
    assert (gain.value, gain.low, gain.high, gain.better) == (0.5, 0.5, 0.5, "higher")
    assert figures["sketch/edge_agreement_baseline"].better == ""


def test_a_rate_of_one_is_not_certain(figures: dict[str, Figure]) -> None:
    """The exact lower limit of 21 of 21 is 0.025^(1/21)."""
    hair = figures["mask/hair_colour_accuracy"]
    assert hair.low == pytest.approx(0.025 ** (1 / 21))
    assert (hair.value, hair.high) == (1.0, 1.0)
    assert "Clopper-Pearson" in hair.interval


def test_the_overlap_of_a_label_is_the_ratio_of_all_pixels(figures: dict[str, Figure]) -> None:
    ratios = HIT.sum(0) / np.maximum(GIVEN.sum(0) + FOUND.sum(0) - HIT.sum(0), 1)
    hair = figures["mask/iou/hair"]
    assert hair.value == pytest.approx(ratios[LABELS.index("hair")])
    assert hair.low is not None
    assert hair.high is not None
    assert hair.low < float(hair.value or 0) < hair.high
    assert "mask/iou/hat" not in figures  # no mask asks for a hat
    asked = np.delete(ratios, LABELS.index("hat"))
    assert figures["mask/dataset_miou"].value == pytest.approx(asked.mean())


def test_distances_have_the_value_and_the_long_name(figures: dict[str, Figure]) -> None:
    frechet = next(figure for name, figure in figures.items() if name.startswith("mask/frechet_"))
    assert frechet.name.startswith(f"mask/frechet_{CLIP}_128px_n{N}-")
    assert frechet.value == distances.frechet(*FACES)
    assert figures["mask/kid"].value == distances.kid(*FACES)
    for one in (frechet, figures["mask/kid"]):
        assert one.low is not None
        assert one.high is not None
        assert one.low < float(one.value or 0) < one.high
        assert (one.extractor, one.n) == (CLIP, N)


def test_the_fid_needs_a_number_of_images_and_its_stand_in_names_its_own() -> None:
    found = {figure.name: figure for figure in summarise(scores(), min_frechet_n=N + 1)}
    assert found["mask/fid"].value is None
    assert f"below {N + 1} (metrics.min_frechet_n)" in found["mask/fid"].unavailable
    assert any(name.startswith("mask/frechet_") for name in found)


def test_unavailable_metrics_say_why_and_are_no_metrics(figures: dict[str, Figure]) -> None:
    assert figures["mask/lpips"].value is None
    assert figures["mask/lpips"].unavailable == "no weights: set metrics.lpips"
    assert "unconditional/lpips" not in figures
    metrics = flat(list(figures.values()))
    assert "mask/lpips" not in metrics
    assert metrics["mask/miou"] == figures["mask/miou"].value


def test_figures_are_read_as_they_were_written(figures: dict[str, Figure]) -> None:
    assert read_figures(write_figures(list(figures.values()))) == list(figures.values())


def test_a_row_that_is_not_a_number_makes_the_figure_nan_without_interval() -> None:
    broken = simulate({"mask/miou": [0.5, math.nan, 0.6]})
    figure = next(figure for figure in summarise(broken) if figure.name == "mask/miou")
    for one in (figure, *read_figures(write_figures([figure]))):
        assert math.isnan(flat([one])["mask/miou"])
    assert (figure.low, figure.high, figure.interval) == (None, None, "")


def test_broken_features_make_the_distances_nan() -> None:
    faces = FACES[0].copy()
    faces[3, 0] = math.nan
    metrics = flat(summarise(simulate({"mask/miou": MIOU}, features=(faces, FACES[1]))))
    assert math.isnan(metrics["mask/kid"])
    assert all(math.isnan(value) for name, value in metrics.items() if "frechet" in name)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_very_few_rows_have_figures(n: int) -> None:
    found = {
        figure.name: figure for figure in summarise(simulate({"mask/miou": MIOU[:n]}, features=(FACES[0], FACES[1])))
    }
    assert found["mask/miou"].value == math.fsum(MIOU[:n]) / n
    assert ("mask/kid" in found) == (n > 1)
    if n == 1:
        assert found["mask/miou"].low is None


def test_figures_by_group_show_the_gap() -> None:
    gaps = {gap.attribute: gap for gap in by_group(scores(), "mask/miou", least=5)}
    black, blond = MIOU[:10].mean(), MIOU[10:].mean()
    hair = gaps["hair"]
    assert [one.figure.value for one in hair.groups] == pytest.approx([black, blond])
    assert hair.gap == pytest.approx(abs(black - blond))
    assert (hair.best, hair.worst) == (("black", "blond") if black > blond else ("blond", "black"))
    assert math.isnan(gaps["glasses"].gap)  # two pictures with glasses are too few to compare
    assert [one.figure.n for one in gaps["glasses"].groups] == [N - 2, 2]


def test_the_worst_group_of_a_distance_is_the_farthest() -> None:
    groups = [{"hair": "black" if i % 2 else "red"} for i in range(N)]
    far = simulate({"mask/clip_distance": [0.1 * (1 + i % 2) for i in range(N)]}, groups=groups)
    gap = by_group(far, "mask/clip_distance")[0]
    assert (gap.best, gap.worst) == ("red", "black")
    assert gap.gap == pytest.approx(0.1)
