"""Converts a photograph to a condition with the recipe's face parser and sketcher, as the data engine does (§6)."""

from __future__ import annotations

from mmface.config import PICTURE_SIDE, Components
from mmface.data.conditions import Parser, Sketcher, grey_png, square_picture
from mmface.imaging.labels import mask_to_png
from serve.http.requests import Modality


class Converter:
    """Converts photographs; the networks are loaded once, by the constructor.

    Args:
        components: names the networks.
        max_megapixels: larger photographs are refused.
        side: longest side of the conditions, in pixels.
    """

    def __init__(self, components: Components, max_megapixels: float, side: int = PICTURE_SIDE) -> None:
        self.parser = Parser(components.parser)
        self.sketcher = Sketcher(components.sketcher)
        self.max_megapixels, self.side = max_megapixels, side

    def __call__(self, photo: bytes, modality: Modality) -> bytes:
        """The photograph's centre square as a label-index mask or a grey sketch, PNG.

        Raises:
            InputError: ``photo`` cannot be decoded, or has too many pixels.
        """
        picture = square_picture(photo, self.max_megapixels, self.side)
        if modality == "mask":
            return mask_to_png(self.parser([picture])[0])
        return grey_png(self.sketcher([picture])[0])
