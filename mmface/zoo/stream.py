"""An endless stream of drawn portraits as training rows, one window of portraits after the other.

Shapes: R rows, C latent channels, H W latent size, S captions of all rows, D text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mmface.config import Recipe
from mmface.data.conditions import Conditions
from mmface.data.latents import Latents
from mmface.data.portraits import draw
from mmface.data.text import Text
from mmface.datasets.stage import Row
from mmface.imaging.labels import mask_to_png
from mmface.train.rows.mapped import Floats
from mmface.train.rows.sets import TrainingSet
from mmface.train.rows.texts import Texts


class Stream:
    """Draws portraits and encodes them with the stages of the recipe, in memory.

    Args:
        recipe: its first phase gives the size of the portraits.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.size = recipe.phases[0].resolution
        self.conditions, self.latents, self.text = Conditions(recipe), Latents(recipe, self.size), Text(recipe)
        self.conditions.sketcher.model.to(
            memory_format=torch.channels_last
        )  # the layout that suits convolutions on a CPU

    def rows(self, first: int, count: int) -> TrainingSet:
        """The portraits of the seeds ``first`` … ``first + count - 1``."""
        drawn = self.drawn(first, count)
        encoded = _checked(self.latents(drawn), count)
        self.latents.originals.forget()
        return self._training_set(encoded, _checked(self.text(drawn), count))

    def drawn(self, first: int, count: int) -> list[Row]:
        """The same portraits as rows of ``images`` joined with ``conditions``."""
        images = [self._image(seed) for seed in range(first, first + count)]
        drawings = _checked(self.conditions(images), count)
        return [image | drawing for image, drawing in zip(images, drawings, strict=True)]

    def _image(self, seed: int) -> Row:
        portrait = draw(seed, self.size)
        return {
            "id": f"{seed:09d}",
            "image": _png(portrait.image),
            "mask": mask_to_png(portrait.mask),
            "width": self.size,
            "height": self.size,
            "captions": list(portrait.captions),
            "source": "portraits",
            "split": "train",
        }

    def _training_set(self, encoded: Sequence[Row], texts: Sequence[Row]) -> TrainingSet:
        known = self.latents.extra()
        shape = known["latent_shape"]
        mean, std = (np.array(known[name], np.float32)[:, None, None] for name in ("latent_mean", "latent_std"))
        normalised = {
            name: (_floats([row[name] for row in encoded], -1, *shape) - mean) / std
            for name in ("image_mean", "mask_mean", "sketch_mean")
        }
        return TrainingSet(
            ids=np.array([row["id"].encode() for row in encoded]),
            image=normalised["image_mean"],
            image_std=None,
            conditions=(normalised["mask_mean"], normalised["sketch_mean"]),
            texts=self._texts(texts),
        )

    def _texts(self, rows: Sequence[Row]) -> Texts:
        empty, width = self.text.empty, self.text.empty.pooled.shape[-1]
        first = np.cumsum([0, *(len(row["lengths"]) for row in rows)])
        lengths = [length for row in rows for length in row["lengths"]]
        return Texts(
            place=np.array([row["places"] for row in rows]) + first[:-1, None],
            start=np.cumsum([0, *lengths]),
            sequence=_floats([row["sequence"] for row in rows], -1, width),
            pooled=_floats([row["pooled"] for row in rows], -1, width),
            empty_sequence=empty.sequence[0][: empty.lengths[0] if empty.lengths else None],
            empty_pooled=empty.pooled[0],
            masked=empty.lengths is not None,
        )


def _checked(result: Any, count: int) -> list[Row]:
    rows: list[Row] = result.rows
    assert len(rows) == count, result.quarantined[:1]
    return rows


def _floats(values: Sequence[bytes], *shape: int) -> Floats:
    return np.frombuffer(b"".join(values), np.float32).reshape(shape)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    sink = BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()
