"""Photograph to condition: the recipe's face parser and sketcher, as the data engine uses them (§6)."""

from __future__ import annotations

from mmface.config import PICTURE_SIDE, Components
from mmface.data.conditions import Parser, Sketcher, grey_png, square_picture
from mmface.imaging.labels import mask_to_png
from serve.http.schemas import Modality


class Converter:
    """Loads its networks once.

    Args:
        components: names the networks.
        max_megapixels: a larger photograph is refused.
        side: most pixels a side of what comes out.
    """

    def __init__(self, components: Components, max_megapixels: float, side: int = PICTURE_SIDE) -> None:
        self.parser = Parser(components.parser)
        self.sketcher = Sketcher(components.sketcher)
        self.max_megapixels, self.side = max_megapixels, side

    def __call__(self, photo: bytes, modality: Modality) -> bytes:
        """The photograph's centre square as a label-index mask or a grey sketch, PNG.

        Raises:
            InputError: not a picture.
        """
        picture = square_picture(photo, self.max_megapixels, self.side)
        if modality == "mask":
            return mask_to_png(self.parser([picture])[0])
        return grey_png(self.sketcher([picture])[0])
