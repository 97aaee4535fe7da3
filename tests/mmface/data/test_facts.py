"""The measures of the facts captioner are right on drawn portraits, whose attributes are known, or say nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mmface.config.load import load_recipe
from mmface.data.captions import Captions, appearance, describe_facts, measure_facts
from mmface.data.captions.appearance import Face
from mmface.data.captions.facts import Facts
from mmface.data.portraits import draw
from mmface.data.portraits.attributes import Shape, sample_attributes, sample_shape
from mmface.imaging.labels import LABELS, MIRRORED

FIRST, COUNT, SIZE = 9_000_000, 240, 128
BEARDS = {"full": "a full beard", "goatee": "a goatee", "moustache": "a moustache"}
GLASSES = {"clear": "glasses", "sunglasses": "sunglasses"}

Words = dict[str, str]
Truth = Callable[[Words, Shape], str | bool | None]

# What is true, how often the measure must say something, and how often it must then be right.
MEASURES: dict[str, tuple[Truth, float, float]] = {
    "skin_tone": (lambda words, _: words["skin"], 0.7, 0.9),
    "eye_colour": (lambda words, _: words["eyes"], 0.7, 0.95),
    "lip_colour": (lambda words, _: words["lipstick"], 0.15, 0.95),
    "brows": (lambda words, _: words["brows"], 0.4, 0.97),
    "beard": (lambda words, _: BEARDS.get(words["beard"]), 0.03, 0.85),
    "expression": (lambda words, _: words["expression"], 0.9, 0.95),
    "pose": (lambda words, _: words["pose"], 0.9, 0.98),
    "gaze": (
        lambda _, shape: "left" if shape.gaze_x < -0.1 else "right" if shape.gaze_x > 0.1 else "front",
        0.03,
        0.98,
    ),
    "light": (lambda words, _: words["light"], 0.8, 0.95),
    "glasses": (lambda words, _: GLASSES.get(words["glasses"]), 0.12, 0.95),
    "fringe": (lambda words, _: words["hair_do"] == "bangs", 0.1, 0.95),
    "background": (lambda words, _: words["background"], 0.9, 0.98),
    "clothing": (lambda words, _: words["cloth_colour"], 0.85, 0.97),
}


@pytest.fixture(scope="module")
def portraits() -> list[tuple[Face, Words, Shape]]:
    found = []
    for seed in range(FIRST, FIRST + COUNT):
        portrait, random = draw(seed, SIZE), np.random.default_rng([seed, 0])
        shape = sample_shape(random, sample_attributes(random))
        found.append((Face(portrait.image, portrait.mask), portrait.attributes, shape))
    return found


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_is_right_or_says_nothing(portraits: list[tuple[Face, Words, Shape]], name: str):
    truth, least, right = MEASURES[name]
    said = [
        (word, truth(words, shape)) for face, words, shape in portraits if (word := getattr(appearance, name)(face))
    ]
    assert len(said) >= least * COUNT
    assert sum(word == true for word, true in said) >= right * len(said), [pair for pair in said if pair[0] != pair[1]]


@pytest.mark.parametrize("name", ["pose", "light", "gaze"])
def test_a_mirrored_photograph_has_the_other_side(portraits: list[tuple[Face, Words, Shape]], name: str):
    other = {"left": "right", "right": "left", "front": "front", None: None}
    differ = 0
    for seed in range(FIRST, FIRST + 40):
        portrait = draw(seed, SIZE)
        mirrored = Face(portrait.image[:, ::-1], MIRRORED[portrait.mask[:, ::-1]].astype(np.uint8))
        measure = getattr(appearance, name)
        differ += measure(mirrored) != other[measure(Face(portrait.image, portrait.mask))]
    assert differ <= 1


def test_nothing_is_said_of_what_is_not_there():
    grey = np.full((64, 64, 3), 128, np.uint8)
    for mask in (np.zeros((64, 64), np.uint8), np.full((64, 64), LABELS.index("skin"), np.uint8)):
        facts = measure_facts(grey, mask)
        assert (facts.hair_colour, facts.eyes, facts.lips, facts.beard, facts.pose, facts.gaze) == (None,) * 6
        assert all("None" not in text and "  " not in text for text in describe_facts(facts, 10))


def test_any_mask_can_be_measured():
    random = np.random.default_rng(0)
    for size in (8, 16, 33):
        for labels in (2, 6, 19):
            mask = random.integers(0, labels, (size, size), dtype=np.uint8)
            measure_facts(random.integers(0, 256, (size, size, 3), dtype=np.uint8), mask)


def test_each_fact_is_in_two_captions_or_more_of_ten_that_differ():
    facts = Facts(
        hair_colour="red",
        hair_length="long",
        skin="tan",
        eyes="green",
        lips="plum",
        brows="thin",
        glasses="glasses",
        accessories=("earrings",),
        expression="smiling",
        pose="left",
        light="right",
        background="blue",
        clothing="black",
    )
    texts = describe_facts(facts, 10)
    assert len(set(texts)) == 10
    words = ("tan", "green", "plum", "glasses", "earrings", "smiling", "blue", "black clothes")
    assert {
        word: sum(word in text for text in texts) for word in words if sum(word in text for text in texts) < 2
    } == {}


def test_the_recipe_says_how_much_is_measured():
    basic, everything = (load_recipe("demo", [f"captioning.facts={which}"]) for which in ("basic", "all"))
    assert [Captions(one).settings.facts for one in (basic, everything)] == ["basic", "all"]
