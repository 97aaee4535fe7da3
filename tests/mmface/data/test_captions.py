"""Captions: the facts captioner states only what was measured, and every caption fits the tokenizer."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from mmface.config.load import load_recipe
from mmface.data.captions import Captions, Facts, describe_facts, measure_facts
from mmface.data.portraits import HAIR_COLOURS, draw
from mmface.errors import InputError
from mmface.imaging.labels import LABELS, mask_to_png


def canvas(**parts: tuple[slice, slice]) -> np.ndarray:
    mask = np.zeros((64, 64), np.uint8)
    for name, place in parts.items():
        mask[place] = LABELS.index(name)
    return mask


@pytest.mark.parametrize("word", HAIR_COLOURS)
def test_hair_colour_is_measured_under_the_hair(word: str):
    mask = canvas(hair=np.s_[:20, :])
    pixels = np.full((64, 64, 3), 255, np.uint8)
    pixels[:20] = HAIR_COLOURS[word]
    assert measure_facts(pixels, mask).hair_colour == word


def test_facts_name_only_the_labels_in_the_mask():
    mask = canvas(hair=np.s_[:10, :], eye_g=np.s_[20:24, 10:50], mouth=np.s_[40:44, 25:40], l_lip=np.s_[44:46, 25:40])
    facts = measure_facts(np.zeros((64, 64, 3), np.uint8), mask, "basic")
    assert facts == Facts("black", "short", glasses="sunglasses", mouth_open=True)
    mask[50:, :30] = LABELS.index("hair")
    assert measure_facts(np.zeros((64, 64, 3), np.uint8), mask).hair_length == "long"


def test_a_bald_head_has_no_hair_colour():
    facts = measure_facts(np.zeros((64, 64, 3), np.uint8), canvas(skin=np.s_[10:50, 10:50]))
    assert facts.hair_colour is None
    assert all("None" not in text for text in describe_facts(facts, 10))


def test_ten_different_captions_name_the_hair_and_the_accessories():
    texts = describe_facts(Facts("red", "long", glasses="glasses", accessories=("a hat",)), 10, "basic")
    assert len(set(texts)) == 10
    assert all("red" in text for text in texts)
    assert sum("a hat and glasses" in text for text in texts) >= 4


@pytest.fixture(scope="module")
def stage() -> Captions:
    return Captions(load_recipe("demo"))


def row(captions: list[str] | None) -> dict[str, object]:
    portrait = draw(7, 64)
    sink = BytesIO()
    Image.fromarray(portrait.image).save(sink, "PNG")
    return {
        "id": "x",
        "uri": "x.png",
        "image": sink.getvalue(),
        "mask": mask_to_png(portrait.mask),
        "captions": captions,
    }


def test_supplied_captions_are_kept_and_repeated_up_to_the_number_per_image(stage: Captions):
    made = stage([row(["a man with red hair", " a man "])]).rows[0]
    assert made["captioner"] == "supplied"
    assert made["captions"] == ["a man with red hair", "a man"] * 5


def test_every_caption_fits_the_tokenizer(stage: Captions):
    made = stage([row(["word " * 200]), row(None)])
    for one in made.rows:
        assert len(one["captions"]) == 10
        lengths = [len(stage.tokenizer(text)["input_ids"]) for text in one["captions"]]
        assert max(lengths) <= stage.tokenizer.model_max_length
    assert made.rows[1]["captioner"] == "facts"


def test_an_unknown_captioner_is_refused():
    with pytest.raises(InputError, match="as captioner"):
        Captions(load_recipe("demo", ["components.captioner=gpt"]))
