"""Words and the colours they stand for (sRGB, 0..255)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
RGB = tuple[int, int, int]

# Far apart in CIELAB, so that tests can check the word against rendered pixels.
HAIR_COLOURS: dict[str, RGB] = {
    "black": (30, 26, 27),
    "brown": (94, 60, 38),
    "red": (152, 66, 38),
    "blond": (208, 172, 112),
    "grey": (134, 134, 136),
    "white": (226, 223, 218),
}
SKIN_COLOURS: dict[str, RGB] = {
    "pale": (240, 206, 186),
    "fair": (228, 184, 156),
    "tan": (205, 154, 116),
    "brown": (156, 106, 76),
    "dark": (116, 76, 56),
}
EYE_COLOURS: dict[str, RGB] = {
    "brown": (88, 54, 30),
    "blue": (84, 134, 190),
    "green": (86, 130, 78),
    "grey": (128, 138, 146),
}
LIP_COLOURS: dict[str, RGB] = {"red": (186, 32, 44), "pink": (214, 96, 118), "plum": (124, 40, 70)}
CLOTH_COLOURS: dict[str, RGB] = {
    "black": (36, 36, 40),
    "white": (232, 232, 228),
    "grey": (128, 130, 134),
    "blue": (44, 82, 150),
    "red": (172, 38, 44),
    "green": (52, 110, 66),
    "yellow": (224, 182, 66),
    "purple": (108, 62, 132),
}
BACKGROUND_COLOURS: dict[str, RGB] = {
    "blue": (104, 144, 192),
    "green": (108, 140, 98),
    "grey": (146, 146, 148),
    "beige": (206, 190, 162),
    "dark": (44, 44, 52),
    "white": (226, 226, 226),
    "orange": (204, 138, 82),
    "purple": (136, 108, 158),
}


def unit(colour: RGB) -> Array:
    """An sRGB triple as float32 [3] in 0..1."""
    return np.asarray(colour, np.float32) / 255
