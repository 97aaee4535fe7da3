"""Finds photographs of an evaluation set among the photographs that a model was trained on (§8)."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from mmface.data.audit import Near, Seen
from mmface.datasets.dataset import Dataset

FILE = "leaks.json"
COLUMNS = ["id", "uri", "perceptual_hash", "split"]


class Leak(BaseModel):
    """A row of the evaluation set that is also a training photograph.

    Attributes:
        held_out: id of the row.
        trained: URI of the training photograph.
        exact: whether both are the same file; otherwise they are near duplicates.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    held_out: str
    trained: str
    exact: bool


def find_leaks(evalset: Dataset, images: Dataset) -> list[Leak]:
    """Pairs of a row of the evaluation set and a training photograph, exact duplicates first.

    Args:
        images: the ``images`` dataset that the model was trained on; its ``data.near_duplicate_bits`` decides what a
            near duplicate is. Read part by part, so that memory does not grow with the collection.
    """
    bits = int(images.manifest.config["near_duplicate_bits"])
    held_out = Near(bits)
    for row in evalset.table(["id", "perceptual_hash"]).to_pylist():
        held_out.add(Seen(row["id"], "", row["perceptual_hash"]))
    found = []
    for file in images.parts():
        for row in images.part(file.path, COLUMNS).to_pylist():
            if row["split"] == "train":
                for twin in held_out.find(Seen(row["id"], row["uri"], row["perceptual_hash"])):
                    found.append(Leak(held_out=twin.id, trained=row["uri"], exact=twin.id == row["id"]))
    return sorted(found, key=lambda leak: (not leak.exact, leak.held_out, leak.trained))


def write_leaks(leaks: Sequence[Leak]) -> str:
    """The leaks as JSON."""
    return json.dumps([leak.model_dump() for leak in leaks], indent=2) + "\n"


def read_leaks(text: str | bytes) -> list[Leak]:
    """The leaks from the JSON of :func:`write_leaks`."""
    return [Leak.model_validate(leak) for leak in json.loads(text)]
