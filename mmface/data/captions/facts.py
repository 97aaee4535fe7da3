"""The ``facts`` captioner: sentences about what was measured in the photograph (§7).

It measures the label mask and the pixels under it (:mod:`mmface.data.captions.appearance`) and states only that. It is
deterministic, and each row names it as its captioner.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mmface.data.captions import appearance
from mmface.data.captions.appearance import SEEN, Face
from mmface.data.colour import nearest_word
from mmface.data.portraits import HAIR_COLOURS
from mmface.imaging.labels import LABELS

Measured = Literal["basic", "all"]
WORN = {"hat": "a hat", "ear_r": "earrings", "neck_l": "a necklace"}


@dataclass(frozen=True)
class Facts:
    """The measurements of one photograph; None where there was nothing to measure or it was not clear."""

    hair_colour: str | None = None
    hair_length: str | None = None
    fringe: bool = False
    skin: str | None = None
    eyes: str | None = None
    lips: str | None = None
    brows: str | None = None
    beard: str | None = None
    glasses: str | None = None
    accessories: tuple[str, ...] = ()
    expression: str | None = None
    mouth_open: bool = False
    pose: str | None = None
    gaze: str | None = None
    light: str | None = None
    background: str | None = None
    clothing: str | None = None


def measure_facts(pixels: NDArray[np.uint8], mask: NDArray[np.uint8], which: Measured = "all") -> Facts:
    """Measures the facts of one photograph.

    Args:
        pixels: [H, W, 3] sRGB.
        mask: [H, W] label indices.
        which: see ``captioning.facts`` of the recipe.
    """
    face = Face(pixels, mask)
    hair = pixels[face.where("hair")]
    colour = nearest_word(hair.mean(0) / 255, HAIR_COLOURS) if face.share("hair") > SEEN else None
    basic = Facts(
        hair_colour=colour,
        hair_length=_hair_length(mask) if colour else None,
        accessories=tuple(phrase for name, phrase in WORN.items() if face.share(name) > SEEN / 4),
        glasses=appearance.glasses(face),
        mouth_open=face.share("mouth") > SEEN,
    )
    if which == "basic":
        return basic
    return replace(
        basic,
        fringe=bool(colour) and appearance.fringe(face),
        skin=appearance.skin_tone(face),
        eyes=appearance.eye_colour(face),
        lips=appearance.lip_colour(face),
        brows=appearance.brows(face),
        beard=appearance.beard(face),
        expression=appearance.expression(face),
        pose=appearance.pose(face),
        gaze=appearance.gaze(face),
        light=appearance.light(face),
        background=appearance.background(face),
        clothing=appearance.clothing(face),
    )


def _hair_length(mask: NDArray[np.uint8]) -> str:
    """Long when hair falls below the lower lip, short otherwise."""
    lips = np.flatnonzero((mask == LABELS.index("l_lip")).any(1))
    chin = lips.max() if lips.size else mask.shape[0] * 2 // 3
    return "long" if float((mask[chin:] == LABELS.index("hair")).mean()) > 0.02 else "short"


def describe_facts(facts: Facts, count: int, which: Measured = "all") -> list[str]:
    """``count`` true captions, in turn natural sentences and short lists of cues.

    Every caption of ``all`` names the hair. What else was measured is divided among the captions so that each fact is
    in several of them: a text encoder with few tokens cuts the end of a caption.
    """
    return list(islice(_captions(facts) if which == "all" else cycle(_basic(facts)), count))


def _basic(facts: Facts) -> list[str]:
    hair = f"{facts.hair_length} {facts.hair_colour} hair" if facts.hair_colour else "no visible hair"
    plain = f"{facts.hair_colour} hair" if facts.hair_colour else "no visible hair"
    hats, others = ([one for one in facts.accessories if (one == WORN["hat"]) is first] for first in (True, False))
    worn = " and ".join([*hats, *(["glasses"] if facts.glasses else []), *others])
    state = "open" if facts.mouth_open else "closed"
    mouth = f"{'an' if facts.mouth_open else 'a'} {state} mouth"
    plus_worn = f", wearing {worn}" if worn else ""
    return [
        f"a photo of a person with {hair}{plus_worn}",
        f"a portrait of a person with {plain}",
        f"a face with {hair} and {mouth}{plus_worn}",
        f"hair: {facts.hair_colour or 'none'}; accessories: {worn or 'none'}; mouth: {state}",
        f"a person who has {hair}",
        f"close-up of a face, {plain}, {mouth}",
        f"this person has {plain}{plus_worn}",
        f"portrait, {hair}, {worn or 'no accessories'}",
        f"a head shot of someone with {plain} and {mouth}",
        f"someone with {hair}{plus_worn} looks at the camera",
    ]


def _captions(facts: Facts) -> Iterator[str]:
    looks, state, scene = _looks(facts), _state(facts), _scene(facts)
    worn, cues = _joined(_worn(facts)), _cues(facts)
    hair = _hair(facts)
    number = 0
    while True:
        own, doing = _turned(looks, number), _turned(state, number)
        around = _turned(scene, number)
        cue = _turned(cues, number)
        wearing = f", wearing {worn}" if worn else ""
        yield from (
            _sentence(f"a photo of a person with {hair}", own[:2], [f"wearing {worn}" if worn else "", *doing[:1]]),
            "; ".join([f"hair: {_hair_cue(facts)}", *cue[:3]]),
            _sentence(f"a person with {_joined([hair, *own[:1]])}", doing, around[:1]),
            f"a portrait of someone with {hair}{wearing}",
            ", ".join([hair, *own[1:3], *doing[:1]]),
            _sentence(
                f"this person has {_joined([hair, *own[-2:]])}", [f"wearing {worn}" if worn else ""], around[-1:]
            ),
            "; ".join([*cue[-3:], f"hair: {_hair_cue(facts)}"]),
            _sentence(f"a close-up of a face with {_joined([*own[:2], hair])}", doing[-1:], []),
            _sentence(f"someone with {hair}", [f"wearing {worn}" if worn else ""], [*doing[:1], *around[:1]]),
            ", ".join(["portrait", hair, worn or "no accessories", *around[:2]]),
        )
        number += 1


def _hair(facts: Facts) -> str:
    if not facts.hair_colour:
        return "no visible hair"
    return f"{facts.hair_length} {facts.hair_colour} hair{' with bangs' if facts.fringe else ''}"


def _hair_cue(facts: Facts) -> str:
    return f"{facts.hair_length} {facts.hair_colour}" if facts.hair_colour else "none"


def _looks(facts: Facts) -> list[str]:
    """What the person has, as phrases after "with"."""
    named = (
        (facts.beard, "{}"),
        (facts.eyes, "{} eyes"),
        (facts.skin, "{} skin"),
        (facts.lips, "{} lips"),
        (facts.brows, "{} eyebrows"),
    )
    return [phrase.format(word) for word, phrase in named if word]


def _worn(facts: Facts) -> list[str]:
    clothes = [f"{facts.clothing} clothes"] if facts.clothing else []
    return [*([facts.glasses] if facts.glasses else []), *facts.accessories, *clothes]


def _state(facts: Facts) -> list[str]:
    """What the person does, as phrases after a comma."""
    moods = {"smiling": "smiling", "neutral": "with a neutral expression", "open": "with an open mouth"}
    turns = {"left": "turned to the left", "right": "turned to the right", "front": "facing the camera"}
    found = [moods[facts.expression]] if facts.expression else []
    if facts.mouth_open and facts.expression == "smiling":
        found = ["smiling with an open mouth"]
    found += [turns[facts.pose]] if facts.pose else []
    return found + ([f"looking to the {facts.gaze}"] if facts.gaze else [])


def _scene(facts: Facts) -> list[str]:
    lights = {"left": "light from the left", "right": "light from the right", "front": "even light"}
    found = [f"in front of {_article(facts.background)} background"] if facts.background else []
    return found + ([lights[facts.light]] if facts.light else [])


def _cues(facts: Facts) -> list[str]:
    named = {
        "expression": facts.expression,
        "accessories": _joined(_worn(facts)) or "none",
        "mouth": "open" if facts.mouth_open else "closed",
        "skin": facts.skin,
        "eyes": facts.eyes,
        "background": facts.background,
    }
    return [f"{name}: {word}" for name, word in named.items() if word]


def _article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _joined(phrases: list[str]) -> str:
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)


def _turned(phrases: list[str], number: int) -> list[str]:
    """The phrases in another order for each round of captions."""
    start = number % len(phrases) if phrases else 0
    return phrases[start:] + phrases[:start]


def _sentence(start: str, *groups: list[str]) -> str:
    """The start and what follows it, separated by commas; empty phrases are left out."""
    return ", ".join([start, *(phrase for group in groups for phrase in group if phrase)]) + "."
