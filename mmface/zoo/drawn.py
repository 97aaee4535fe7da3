"""Training data of the zoo: portraits drawn from seeds that nothing else uses, or photographs of a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mmface.data.conditions import square_picture
from mmface.data.portraits import draw
from mmface.datasets.dataset import open_dataset
from mmface.datasets.parts import join_parts, part_names
from mmface.errors import DatasetError
from mmface.imaging.labels import mask_from_png
from mmface.imaging.pixels import resize_mask
from mmface.zoo import photos

TRAIN_SEED = 1_000_000
HELD_OUT_SEED = 500_000
SIZE = 128
MEGAPIXELS = 100.0  # generous: the images stage has applied the recipe's limit


@dataclass(frozen=True)
class Drawn:
    """Images uint8 [N, S, S, 3] with masks uint8 [N, S, S]; drawn portraits also have captions and attributes."""

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    captions: list[tuple[str, ...]]
    attributes: list[dict[str, str]]

    def pixels(self, at: NDArray[np.int64]) -> Tensor:
        """Images [B, 3, S, S] in 0..1."""
        return torch.from_numpy(self.images[at]).permute(0, 3, 1, 2).float() / 255

    def labels(self, at: NDArray[np.int64]) -> Tensor:
        """Masks [B, S, S]."""
        return torch.from_numpy(self.masks[at]).long()


@lru_cache(maxsize=2)
def drawn(n: int, seed: int, size: int = SIZE) -> Drawn:
    """Portraits of the seeds ``seed`` … ``seed + n - 1``; cached for all networks trained in one process."""
    portraits = [draw(seed + i, size) for i in range(n)]
    return Drawn(
        np.stack([p.image for p in portraits]),
        np.stack([p.mask for p in portraits]),
        [p.captions for p in portraits],
        [p.attributes for p in portraits],
    )


def of_dataset(conditions: str, split: str, size: int = SIZE) -> Drawn:
    """The photographs of one split of a published ``conditions`` dataset, with their masks.

    Args:
        conditions: URI.
        split: ``"train"`` or ``"test"``.

    Raises:
        DatasetError: not a published ``conditions`` dataset, or it has no row of that split.
    """
    masks = open_dataset(conditions)
    photos_of = open_dataset(masks.manifest.inputs["images"]) if "images" in masks.manifest.inputs else None
    if photos_of is None:
        raise DatasetError(f"{conditions} is not a conditions dataset", field="dataset")
    rows = [
        row
        for part in part_names(masks)
        for row in join_parts([photos_of, masks], part, [["id", "split", "image"], ["id", "mask"]])
        if row["split"] == split
    ]
    if not rows:
        raise DatasetError(f"{conditions} has no row of the split {split}", field="dataset")
    pictures = [square_picture(row["image"], MEGAPIXELS).resize((size, size), Image.Resampling.LANCZOS) for row in rows]
    labels = [resize_mask(mask_from_png(row["mask"]), size) for row in rows]
    return Drawn(np.stack([np.asarray(picture) for picture in pictures]), np.stack(labels), [], [])


def photographs(cache: Path | None, seed: int) -> NDArray[np.uint8]:
    """At most 1500 crops [N, 128, 128, 3] of freely licensed photographs, downloaded into ``cache``.

    Args:
        cache: a folder; ``~/.cache/mmface/photos`` by default.

    Raises:
        ServiceError: a package of photographs could not be downloaded.
    """
    paths = photos.fetch(cache or Path.home() / ".cache" / "mmface" / "photos")
    return photos.crops(paths, per_photo=8, size=SIZE, seed=seed)[:1500]
