"""The ``facts`` captioner: sentences about what was measured in the photograph (§7).

It measures the label mask and the pixels under it and states only that: the colour and length of the hair, hat,
glasses, earrings, necklace, an open mouth. It is deterministic, and each row names it as its captioner.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmface.data.colour import nearest_word
from mmface.data.portraits import HAIR_COLOURS
from mmface.imaging.labels import LABELS

SEEN = 0.002  # a label with a larger share of the photograph counts as present


@dataclass(frozen=True)
class Facts:
    """The measurements of one photograph; None where there was nothing to measure."""

    hair_colour: str | None
    hair_length: str | None
    accessories: tuple[str, ...]
    mouth_open: bool


def measure_facts(pixels: NDArray[np.uint8], mask: NDArray[np.uint8]) -> Facts:
    """Measures the facts of one photograph.

    Args:
        pixels: [H, W, 3] sRGB.
        mask: [H, W] label indices.
    """
    share = {name: float((mask == index).mean()) for index, name in enumerate(LABELS)}
    hair = pixels[mask == LABELS.index("hair")]
    colour = nearest_word(hair.mean(0) / 255, HAIR_COLOURS) if share["hair"] > SEEN else None
    worn = {"hat": "a hat", "eye_g": "glasses", "ear_r": "earrings", "neck_l": "a necklace"}
    return Facts(
        hair_colour=colour,
        hair_length=_hair_length(mask) if colour else None,
        accessories=tuple(phrase for name, phrase in worn.items() if share[name] > SEEN / 4),
        mouth_open=share["mouth"] > SEEN,
    )


def describe_facts(facts: Facts, count: int) -> list[str]:
    """``count`` true captions, natural sentences and lists of cues; from the eleventh on they repeat."""
    hair = f"{facts.hair_length} {facts.hair_colour} hair" if facts.hair_colour else "no visible hair"
    worn = " and ".join(facts.accessories)
    state = "open" if facts.mouth_open else "closed"
    mouth = f"{'an' if facts.mouth_open else 'a'} {state} mouth"
    plus_worn = f", wearing {worn}" if worn else ""
    plain = f"{facts.hair_colour} hair" if facts.hair_colour else "no visible hair"
    sentences = [
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
    return [sentences[i % len(sentences)] for i in range(count)]


def _hair_length(mask: NDArray[np.uint8]) -> str:
    """Long when hair falls below the lower lip, short otherwise."""
    lips = np.flatnonzero((mask == LABELS.index("l_lip")).any(1))
    chin = lips.max() if lips.size else mask.shape[0] * 2 // 3
    return "long" if float((mask[chin:] == LABELS.index("hair")).mean()) > 0.02 else "short"
