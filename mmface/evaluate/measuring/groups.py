"""Attributes of photographs by which figures are compared: skin tone, hair, glasses, and words of the prompt (§8)."""

from __future__ import annotations

import re

import numpy as np
from torch import Tensor

from mmface.data.captions import SEEN
from mmface.data.colour import to_lab
from mmface.evaluate.measuring.metrics import hair_word
from mmface.imaging.labels import LABELS

# Bands of the individual typology angle (Del Bino & Bernerd 2013), each with its lower limit in degrees.
TONES = ((55.0, "very light"), (41.0, "light"), (28.0, "intermediate"), (10.0, "tan"), (-30.0, "brown"))
DARKEST = "dark"
# Words that present a gender, as whole words of the prompt.
WORDS = {"woman": "woman", "female": "woman", "girl": "woman", "lady": "woman"}
WORDS |= {"man": "man", "male": "man", "boy": "man", "gentleman": "man"}


def groups_of(prompt: str, source: Tensor, mask: Tensor) -> dict[str, str]:
    """The group of a photograph for each attribute that can be told.

    Args:
        source: the photograph [3, H, W] in [-1, 1].
        mask: its labels [H, W].
    """
    found = {
        "skin tone": skin_tone(source, mask),
        "hair": hair_word(source, mask),
        "gender words": gender_words(prompt),
    }
    glasses = bool((mask == LABELS.index("eye_g")).float().mean() > SEEN / 10)
    return {name: value for name, value in found.items() if value} | {"glasses": "yes" if glasses else "no"}


def skin_tone(source: Tensor, mask: Tensor) -> str | None:
    """The band of the individual typology angle atan2(L* - 50, b*) of the mean skin colour; None without skin."""
    skin = mask == LABELS.index("skin")
    if skin.float().mean() <= SEEN:
        return None
    lightness, _, yellow = to_lab((source[:, skin].double().mean(1).cpu().numpy() + 1) / 2)
    angle = float(np.degrees(np.arctan2(lightness - 50, yellow)))
    return next((name for lowest, name in TONES if angle > lowest), DARKEST)


def gender_words(prompt: str) -> str | None:
    """The gender that the prompt presents; ``both`` if it presents two, None if none."""
    found = {WORDS[word] for word in re.findall(r"[a-z]+", prompt.lower()) if word in WORDS}
    return "both" if len(found) > 1 else next(iter(found), None)
