"""``mmface zoo train`` and ``mmface zoo measure``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from mmface.zoo import NAMES, PREFIX, measure, resolve, train_clip, train_parser, train_sketch, train_vae

_TRAINERS: dict[str, Callable[[Path], None]] = {
    "vae": train_vae.train,
    "clip": train_clip.train,
    "parser": train_parser.train,
    "sketch": train_sketch.train,
}


def train_zoo(only: Sequence[str] | None = None, out: Path | None = None) -> None:
    """Train all zoo networks, or those named, into the package or into folders below ``out``.

    Raises:
        ServiceError: a package of photographs could not be fetched.
    """
    for name in only or NAMES:
        _TRAINERS[name](out / name if out else Path(resolve(PREFIX + name)))


def measure_zoo(photos: Path | None = None, sheet: Path | None = None, n: int = 256) -> str:
    """All figures as a markdown table.

    Raises:
        InputError: ``photos`` holds no picture.
    """
    torch.manual_seed(0)
    return measure.as_table(measure.measure(n, photos, sheet))
