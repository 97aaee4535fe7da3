"""What the zoo trains on: portraits drawn into memory, from seeds that nothing else uses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmface.data.portraits import draw
from mmface.zoo import photos

TRAIN_SEED = 1_000_000
HELD_OUT_SEED = 500_000
SIZE = 128


@dataclass(frozen=True)
class Drawn:
    """Portraits as arrays: ``images`` uint8 [N, S, S, 3], ``masks`` uint8 [N, S, S], captions and attributes."""

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
    """Portraits of seeds ``seed`` … ``seed + n - 1``; remembered, so that networks trained in one go share them."""
    portraits = [draw(seed + i, size) for i in range(n)]
    return Drawn(
        np.stack([p.image for p in portraits]),
        np.stack([p.mask for p in portraits]),
        [p.captions for p in portraits],
        [p.attributes for p in portraits],
    )


def photographs(cache: Path | None, seed: int) -> NDArray[np.uint8]:
    """1500 crops [N, 128, 128, 3] of freely licensed photographs, fetched into ``cache`` (default: the user's).

    Raises:
        ServiceError: a package of photographs could not be fetched.
    """
    paths = photos.fetch(cache or Path.home() / ".cache" / "mmface" / "photos")
    return photos.crops(paths, per_photo=8, size=SIZE, seed=seed)[:1500]
