"""The ``conditions`` stage: a 19-label mask and a pencil sketch for every photograph (§6).

Both are stored for the centre square of the photograph: the mask as a palette PNG of label indices, the sketch as a
grey PNG with dark lines on white paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from mmface.components import load_parser, load_sketcher
from mmface.config import Recipe
from mmface.data.labels import mask_from_png, mask_to_png
from mmface.data.pixels import center_square, to_tensor
from mmface.data.records import CONDITIONS
from mmface.data.sources import open_image
from mmface.data.stage import Result, Row, map_rows
from mmface.errors import InputError

MAX_SIDE = 512
FACE_LABELS = tuple(range(1, 13))  # skin to lower lip
SKETCH_BATCH = 8
SKETCH_SIDE = 320  # what public U²-Net checkpoints were trained at; smaller pictures are kept at their size


class Parser:
    """Photograph to label mask, by a SegFormer."""

    def __init__(self, name: str) -> None:
        self.model, self.processor = load_parser(name)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> list[NDArray[np.uint8]]:
        """Label masks [H, W], each at its picture's size."""
        inputs = self.processor(images=list(images), return_tensors="pt")
        logits = self.model(pixel_values=inputs["pixel_values"]).logits
        masks = []
        for image, scores in zip(images, logits, strict=True):
            full = F.interpolate(scores[None], size=(image.height, image.width), mode="bilinear", align_corners=False)
            masks.append(full[0].argmax(0).numpy().astype(np.uint8))
        return masks


class Sketcher:
    """Photograph to pencil sketch, by a U²-Net that answers dark lines on white."""

    def __init__(self, name: str) -> None:
        self.model = load_sketcher(name)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> list[NDArray[np.uint8]]:
        """Grey sketches [H, W] of square pictures, each at its picture's size; equal sizes are drawn together."""
        sketches: dict[int, NDArray[np.uint8]] = {}
        for width in sorted({image.width for image in images}):
            places = [place for place, image in enumerate(images) if image.width == width]
            for start in range(0, len(places), SKETCH_BATCH):
                batch = places[start : start + SKETCH_BATCH]
                sketches.update(zip(batch, self._draw([images[place] for place in batch], width), strict=True))
        return [sketches[place] for place in range(len(images))]

    def _draw(self, images: Sequence[Image.Image], width: int) -> NDArray[np.uint8]:
        side = min(SKETCH_SIDE, width)
        pixels = torch.stack([to_tensor(image, side) for image in images]).add(1).div(2)
        drawn: Any = self.model(pixels)
        full = F.interpolate(drawn, size=(width, width), mode="bilinear", antialias=True)
        grey: NDArray[np.uint8] = full[:, 0].clamp(0, 1).mul(255).round().numpy().astype(np.uint8)
        return grey


class Conditions:
    """Rows of ``images`` to rows of :data:`CONDITIONS`; a supplied mask is validated and kept instead of parsing."""

    name = "conditions"
    schema: pa.Schema = CONDITIONS
    reads: tuple[str, ...] = ("id", "image", "mask", "width", "height")

    def __init__(self, recipe: Recipe) -> None:
        self.max_megapixels = recipe.data.max_megapixels
        self.parser_name = recipe.components.parser
        self.parser = Parser(recipe.components.parser)
        self.sketcher = Sketcher(recipe.components.sketcher)

    def __call__(self, rows: Sequence[Row]) -> Result:
        """Decodes row by row, runs the networks on what decoded."""
        decoded = map_rows(self.name, rows, self._decode)
        images = [row["picture"] for row in decoded.rows]
        if not images:
            return decoded
        parsed = iter(
            self.parser([row["picture"] for row in decoded.rows if row["labels"] is None])
            if any(row["labels"] is None for row in decoded.rows)
            else ()
        )
        sketches = self.sketcher(images)
        result = Result(quarantined=decoded.quarantined)
        for row, sketch in zip(decoded.rows, sketches, strict=True):
            supplied = row["labels"] is not None
            labels = row["labels"] if supplied else next(parsed)
            result.rows.append(
                {
                    "id": row["id"],
                    "mask": mask_to_png(labels),
                    "sketch": grey_png(sketch),
                    "face_area": float(np.isin(labels, FACE_LABELS).mean()),
                    "edge_density": float((sketch < 128).mean()),
                    "mask_origin": "supplied" if supplied else self.parser_name,
                }
            )
        return result

    def _decode(self, row: Row) -> Row:
        picture = square_picture(row["image"], self.max_megapixels)
        return {**row, "picture": picture, "labels": self._supplied(row, picture) if row["mask"] else None}

    def _supplied(self, row: Row, picture: Image.Image) -> NDArray[np.uint8]:
        labels = mask_from_png(row["mask"])
        height, width = labels.shape
        if abs(width / height - row["width"] / row["height"]) > 0.01:
            message = f"{width}x{height} has another aspect than its picture {row['width']}x{row['height']}"
            raise InputError(message, field="mask")
        square = center_square(Image.fromarray(labels))
        return np.asarray(square.resize(picture.size, Image.Resampling.NEAREST))


def square_picture(data: bytes, max_megapixels: float) -> Image.Image:
    """The centre square of an encoded picture, at most :data:`MAX_SIDE` a side."""
    square = center_square(open_image(data, max_megapixels))
    if square.width <= MAX_SIDE:
        return square
    return square.resize((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)


def grey_png(sketch: NDArray[np.uint8]) -> bytes:
    """A grey picture [H, W] as PNG."""
    sink = BytesIO()
    Image.fromarray(sketch).save(sink, "PNG")
    return sink.getvalue()
