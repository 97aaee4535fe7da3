"""Names a colour by the nearest reference in CIELAB, where distances match perceived differences."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# IEC 61966-2-1 primaries and the D65 white point.
_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])


def to_lab(colours: Floats) -> Floats:
    """sRGB [..., 3] in 0..1 → CIELAB [..., 3] under D65 (IEC 61966-2-1, CIE 15)."""
    colours = np.clip(colours, 0, 1)
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    relative = linear @ _TO_XYZ.T / _WHITE
    f = np.where(relative > (6 / 29) ** 3, np.cbrt(relative), relative / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def nearest_word(colour: Floats, words: Mapping[str, tuple[int, int, int]]) -> str:
    """The word whose reference (sRGB, 0..255) is nearest to ``colour`` (sRGB [3] in 0..1)."""
    references = to_lab(np.array(list(words.values())) / 255)
    distance = np.linalg.norm(references - to_lab(colour), axis=-1)
    return list(words)[int(distance.argmin())]
