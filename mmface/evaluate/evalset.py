"""Evaluation sets: the held-out rows that models are measured on, chosen once and never changed (§8).

A row is painted up to three times: from its mask, from its sketch, and ``unconditional``, which is the sketch's prompt
and seed without the sketch: the baseline of the edge agreement.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mmface.config import Evaluate
from mmface.datasets.stage import Row
from mmface.evaluate.measuring.metrics import prompted_hair

UNCONDITIONAL = "unconditional"
PART_ROWS = 32


def choose_rows(ids: Iterable[str], evaluate: Evaluate) -> dict[str, list[str]]:
    """The modalities of each chosen row: the first ``n`` and ``n_sketch`` ids of those held out."""
    counts = {"mask": evaluate.n, "sketch": evaluate.n_sketch, UNCONDITIONAL: evaluate.n_sketch}
    ordered = sorted(ids)[: max(counts.values())]
    return {one: [kind for kind, count in counts.items() if i < count] for i, one in enumerate(ordered)}


def pin_row(row: Mapping[str, Any], modalities: Sequence[str]) -> Row:
    """A row of :data:`mmface.datasets.records.EVALSET` from a row of images, conditions and captions."""
    taken = ("id", "source", "perceptual_hash", "image", "mask", "sketch", "captions", "mask_origin")
    pinned = {"prompt": choose_prompt(row["captions"]), "seed": seed_of(row["id"]), "modalities": list(modalities)}
    return {name: row.get(name) for name in taken} | pinned


def choose_prompt(captions: Sequence[str]) -> str:
    """The first caption that names a hair colour, which can be checked; otherwise the first caption."""
    return next((text for text in captions if prompted_hair(text)), captions[0])


def seed_of(image_id: str) -> int:
    """A 31-bit seed from the row's id, so that a row has the same noise in every evaluation and modality."""
    return int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:4], "big") >> 1


def requests(row: Row) -> Iterator[Row]:
    """The row once for every modality, with the columns ``modality`` and ``image_id``; ``id`` is that of the sample."""
    for modality in row["modalities"]:
        yield {**row, "id": sample_id(row["id"], modality), "image_id": row["id"], "modality": modality}


def sample_id(image_id: str, modality: str) -> str:
    """The id of the sample of a row and modality."""
    return f"{image_id}-{modality}"
