"""Estimates equal their closed forms and exact byte counts, and name a source for every figure."""

from __future__ import annotations

import pytest

from mmface.config import Recipe
from mmface.config.load import load_recipe
from mmface.errors import InputError
from mmface.estimate.hardware import TRAINING, Figure, parse_machine
from mmface.estimate.lines import Line
from mmface.estimate.prediction import estimate
from mmface.estimate.shapes import Shapes

MACHINE = parse_machine("8xA100", 64)


def lines(recipe: Recipe, images: int = 1000, **options: object) -> dict[str, Line]:
    return {line.stage: line for line in estimate(recipe, images, MACHINE, **options)}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def paper() -> Shapes:
    return Shapes(load_recipe("paper-flow"))


def test_the_papers_model_has_as_many_parameters_as_the_released_one(paper: Shapes):
    assert paper.parameters() == 1_345_298_624
    assert paper.latent(512) == (16, 64, 64)
    assert (paper.text_length, paper.text_width) == (77, 1024)


@pytest.mark.parametrize("pixels", [256, 512])
def test_flops_of_the_transformer_equal_the_closed_form(paper: Shapes, pixels: int):
    hidden, depth, image, text = 1152, 28, (pixels // 16) ** 2, 77
    both = image + text
    # A block: per token four projections and an MLP of two times four widths; attention; one modulation of 12 widths.
    block = 2 * (4 + 8) * hidden**2 * both + 4 * both**2 * hidden + 2 * 12 * hidden**2
    # The last block computes no text query, no text output and no text MLP.
    unread = 2 * (2 + 8) * hidden**2 * text + 4 * text * both * hidden
    embedders = 2 * hidden * (image * 32 * 4 + text * 1024 + 1024 + 256 + hidden)
    final = 2 * 2 * hidden**2 + 2 * image * hidden * 4 * 16
    assert paper.transformer_flops(pixels) == depth * block - unread + embedders + final


@pytest.fixture(scope="module")
def whole(paper: Shapes) -> dict[str, Line]:
    return lines(paper.recipe, 100_000, photo=Figure(2e6, "given"))


def test_training_time_is_flops_divided_by_speed(paper: Shapes, whole: dict[str, Line]):
    steps = round(300 * 85_000 / 32)
    flops = 4 * steps * 32 * paper.transformer_flops(256)  # forward once, backward twice, recomputation once
    assert whole["train-0-256"].hours == pytest.approx(flops / (8 * 312e12 * TRAINING.value) / 3600)
    assert whole["train-0-256"].size == 4 * 1_345_298_624


def test_stored_bytes_follow_from_records_and_shapes(whole: dict[str, Line]):
    moments = 4 * 16 * 32 * 32 * 4  # mean and log-variance of the photograph, means of mask and sketch
    text = 10 * 78 * 1024 * 4
    for stage, size in {"latents-256": moments, "latents-512": 4 * moments, "text": text, "images": 2e6}.items():
        assert size <= whole[stage].size / 100_000 <= size * 1.001, stage


def test_every_line_names_its_sources(whole: dict[str, Line]):
    assert list(whole) == [
        *("images", "conditions", "captions", "text", "latents-256", "latents-512"),
        *("train-0-256", "train-1-512", "samples"),
    ]
    for stage, line in whole.items():
        assert line.hours > 0
        assert line.size > 0
        sources = " ".join(line.sources)
        assert any(word in sources for word in ("measured", "counted", "published", "assumed")), stage


def test_preparation_grows_with_the_collection_and_captions_with_their_model():
    few = lines(load_recipe("demo", ["components.captioner=owner/Model-20B-hf"]), 1000)
    both = ["components.captioner=owner/Model-20B-hf", "components.rewriter=owner/Writer-20B"]
    rewritten = lines(load_recipe("demo", both), 1000)
    tokens, rewriting = 10 * (256 + 60 + 77), 60 + 2 * 10 * 77
    assert rewritten["captions"].hours == pytest.approx(few["captions"].hours * (tokens + rewriting) / tokens)
    many = lines(load_recipe("demo", ["components.captioner=owner/Model-80B-hf"]), 3000)
    assert many["captions"].hours == pytest.approx(3 * 4 * few["captions"].hours)
    for stage in ("images", "conditions", "text", "latents-64"):
        assert many[stage].hours == pytest.approx(3 * few[stage].hours)
        assert many[stage].size == pytest.approx(3 * few[stage].size)


@pytest.mark.parametrize("text", ["A100", "0xA100", "8xFoo", "8x", "-1xA100"])
def test_a_machine_is_a_number_and_a_known_name(text: str):
    with pytest.raises(InputError, match="--gpus"):
        parse_machine(text, 8)


def test_unknown_shapes_and_no_photographs_are_refused():
    with pytest.raises(InputError, match=r"components\.vae: the shape of x/y is not known"):
        lines(load_recipe("demo", ["components.vae=x/y"]))
    with pytest.raises(InputError, match=r"components\.captioner: the size of owner/model"):
        lines(load_recipe("demo", ["components.captioner=owner/model"]))
    with pytest.raises(InputError, match="--images"):
        lines(load_recipe("demo"), 0)
    with pytest.raises(InputError, match="--cpus"):
        parse_machine("1xL4", 0)
