"""The ``captions`` stage: supplied captions, or sentences made of measured facts (§7).

The ``facts`` captioner looks at the label mask and the pixels under it and says only what it measured: the hair's
colour and length, hat, glasses, earrings, necklace, an open mouth. It is deterministic and named as such in every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mmface.components import load_text_encoder
from mmface.config import Recipe
from mmface.data.colour import nearest_word
from mmface.data.conditions import square_picture
from mmface.data.labels import LABELS, mask_from_png
from mmface.data.portraits import HAIR_COLOURS
from mmface.data.records import CAPTIONS
from mmface.data.stage import Result, Row, map_rows
from mmface.errors import InputError

SEEN = 0.002  # share of the picture from which on a part counts as present


@dataclass(frozen=True)
class Facts:
    """What was measured in one picture; None where there was nothing to measure."""

    hair_colour: str | None
    hair_length: str | None
    accessories: tuple[str, ...]
    mouth_open: bool


def measure_facts(pixels: NDArray[np.uint8], mask: NDArray[np.uint8]) -> Facts:
    """Facts of one picture.

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
    """``count`` different true captions in natural sentences and structured cues."""
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


class Captions:
    """Rows of ``images`` joined with ``conditions`` to rows of :data:`CAPTIONS`."""

    name = "captions"
    schema: pa.Schema = CAPTIONS
    reads: tuple[str, ...] = ("id", "image", "mask", "captions")

    def __init__(self, recipe: Recipe) -> None:
        if recipe.components.captioner != "facts":
            message = f"no captioner {recipe.components.captioner!r}; known: facts (supplied captions are preferred)"
            raise InputError(message, field="components.captioner")
        self.count = recipe.data.captions_per_image
        self.max_megapixels = recipe.data.max_megapixels
        self.tokenizer: Any = load_text_encoder(recipe.components.text_encoder)[0]

    def __call__(self, rows: Sequence[Row]) -> Result:
        """Exactly ``data.captions_per_image`` captions for each row."""
        return map_rows(self.name, rows, self._caption)

    def _caption(self, row: Row) -> Row:
        picture = square_picture(row["image"], self.max_megapixels)
        facts = measure_facts(np.asarray(picture), mask_from_png(row["mask"]))
        supplied = [text.strip() for text in row["captions"] or () if text.strip()]
        texts = supplied or describe_facts(facts, self.count)
        return {
            "id": row["id"],
            "captions": [self._cap(texts[i % len(texts)]) for i in range(self.count)],
            "hair_colour": facts.hair_colour,
            "captioner": "supplied" if supplied else "facts",
        }

    def _cap(self, text: str) -> str:
        """Drops trailing words until the caption fits the tokenizer, start and end tokens included."""
        words = text.split()
        while words and len(self.tokenizer(" ".join(words))["input_ids"]) > self.tokenizer.model_max_length:
            words.pop()
        if not words:
            raise InputError("a caption has no word that fits the tokenizer", field="captions")
        return " ".join(words)


def _hair_length(mask: NDArray[np.uint8]) -> str:
    """Long when hair falls below the lower lip, short otherwise."""
    lips = np.flatnonzero((mask == LABELS.index("l_lip")).any(1))
    chin = lips.max() if lips.size else mask.shape[0] * 2 // 3
    return "long" if float((mask[chin:] == LABELS.index("hair")).mean()) > 0.02 else "short"
