"""The ``conditions`` stage: a 19-label mask and a pencil sketch for every photograph (§6).

Both cover the centre square of the photograph, with sides of at most ``Recipe.picture_side`` pixels. The mask is stored
as a palette PNG of label indices, the sketch as a grey PNG with dark lines on white.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mmface.config import PICTURE_SIDE, Quality, Recipe
from mmface.data.sources import open_image
from mmface.datasets.records import CONDITIONS
from mmface.datasets.stage import Result, Row, map_rows, quarantine_row
from mmface.errors import FilteredError, InputError
from mmface.imaging.labels import LABELS, MIRRORED, mask_from_png, mask_to_png
from mmface.imaging.pixels import center_square, to_tensor
from mmface.networks.components import accelerator, load_parser, load_sketcher

FACE_LABELS = tuple(range(1, 13))  # skin to lower lip
PARSE_BATCH = 8
SKETCH_SIDE = 320  # training size of the public U²-Net checkpoints; smaller photographs are not enlarged


class Parser:
    """Photograph to label mask, by a SegFormer.

    Args:
        flip: average the logits with those of the mirrored photograph, left and right labels swapped back.
        batch: photographs per pass. A short last batch is filled up: rounding in convolutions can depend on the batch
            size, and a mask must not depend on the number of photographs in the call.
        device: the device of the network.
    """

    def __init__(self, name: str, *, flip: bool = False, batch: int = 1, device: str = "cpu") -> None:
        model, self.processor = load_parser(name)
        self.model: Any = model.to(device)
        self.flip, self.batch = flip, batch

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> list[NDArray[np.uint8]]:
        """Label masks [H, W], each of the size of its photograph."""
        masks: list[NDArray[np.uint8]] = []
        for start in range(0, len(images), self.batch):
            some = list(images[start : start + self.batch])
            filled = some + [some[-1]] * (self.batch - len(some))
            pixels = self.processor(images=filled, return_tensors="pt")["pixel_values"].to(self.model.device)
            for image, scores in zip(some, self._logits(pixels), strict=False):
                size = (image.height, image.width)
                full = F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)
                masks.append(full[0].argmax(0).cpu().numpy().astype(np.uint8))
        return masks

    def _logits(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values=pixels).logits
        if not self.flip:
            return logits
        mirrored: Tensor = self.model(pixel_values=pixels.flip(-1)).logits
        return (logits + mirrored.flip(-1)[:, MIRRORED]) / 2


class Sketcher:
    """Photograph to pencil sketch with dark lines on white, by a U²-Net.

    Args:
        device: the device of the network.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        self.model: Any = load_sketcher(name).to(device)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> list[NDArray[np.uint8]]:
        """Grey sketches [H, W] of square photographs, each of the size of its photograph.

        Photographs are processed one by one: a sketch must not depend on its batch, and this is faster on a CPU.
        """
        return [self._draw(image) for image in images]

    def _draw(self, image: Image.Image) -> NDArray[np.uint8]:
        pixels = to_tensor(image, min(SKETCH_SIDE, image.width)).add(1).div(2)
        drawn = self.model(pixels[None].to(self.model.device))
        full = F.interpolate(drawn, size=(image.height, image.width), mode="bilinear", antialias=True)
        grey: NDArray[np.uint8] = full[0, 0].clamp(0, 1).mul(255).round().cpu().numpy().astype(np.uint8)
        return grey


class Conditions:
    """Rows of ``images`` to rows of :data:`CONDITIONS`; a supplied mask is validated and replaces the parser's."""

    name = "conditions"
    schema: pa.Schema = CONDITIONS
    reads: tuple[str, ...] = ("id", "image", "mask", "width", "height")

    def __init__(self, recipe: Recipe) -> None:
        self.max_megapixels = recipe.data.max_megapixels
        self.side = recipe.picture_side
        self.usual = recipe.data.quality
        self.min_face_area = recipe.data.min_face_area
        self.parser_name = recipe.components.parser
        device, flip = accelerator(), recipe.data.parse_flip
        self.parser = Parser(recipe.components.parser, flip=flip, batch=PARSE_BATCH, device=device)
        self.sketcher = Sketcher(recipe.components.sketcher, device)

    def __call__(self, rows: Sequence[Row]) -> Result:
        """Decodes each row, then runs the networks on the rows that could be decoded."""
        decoded = map_rows(self.name, rows, self._decode)
        parsed = iter(self.parser([row["picture"] for row in decoded.rows if row["labels"] is None]))
        sketches = self.sketcher([row["picture"] for row in decoded.rows])
        result = Result(quarantined=decoded.quarantined)
        for row, sketch in zip(decoded.rows, sketches, strict=True):
            supplied = row["labels"] is not None
            labels = row["labels"] if supplied else next(parsed)
            figures = measure(labels, sketch)
            if figures["face_area"] < self.min_face_area:
                message = (
                    f"the face covers {figures['face_area']:.1%}, less than the minimum of {self.min_face_area:.1%}"
                )
                unwanted = FilteredError(message, field="data.min_face_area")
                result.quarantined.append(quarantine_row(self.name, row, unwanted))
                continue
            result.rows.append(
                {
                    "id": row["id"],
                    "mask": mask_to_png(labels),
                    "sketch": grey_png(sketch),
                    **figures,
                    "outlier": outlier(figures, self.usual),
                    "mask_origin": "supplied" if supplied else self.parser_name,
                }
            )
        return result

    def _decode(self, row: Row) -> Row:
        picture = square_picture(row["image"], self.max_megapixels, self.side)
        return {**row, "picture": picture, "labels": self._supplied(row, picture) if row["mask"] else None}

    def _supplied(self, row: Row, picture: Image.Image) -> NDArray[np.uint8]:
        labels = mask_from_png(row["mask"])
        height, width = labels.shape
        if abs(width / height - row["width"] / row["height"]) > 0.01:
            message = f"{width}x{height} has another aspect ratio than its photograph {row['width']}x{row['height']}"
            raise InputError(message, field="mask")
        square = center_square(Image.fromarray(labels))
        return np.asarray(square.resize(picture.size, Image.Resampling.NEAREST))


def measure(labels: NDArray[np.uint8], sketch: NDArray[np.uint8]) -> dict[str, float]:
    """The figures of :data:`CONDITIONS` for a mask [H, W] and a sketch [H, W], each from 0 to 1."""
    return {
        "face_area": float(np.isin(labels, FACE_LABELS).mean()),
        "label_coverage": len(np.unique(labels)) / len(LABELS),
        "edge_density": float((sketch < 128).mean()),
    }


def outlier(figures: Mapping[str, float], usual: Quality) -> str | None:
    """The name of the first figure outside its limits, or None.

    The limits come from the recipe, not from the other rows: a row keeps its flag when the collection grows, and each
    part is written once.
    """
    limits: dict[str, tuple[float, float]] = usual.model_dump()
    return next((name for name, (low, high) in limits.items() if not low <= figures[name] <= high), None)


def square_picture(data: bytes, max_megapixels: float, side: int = PICTURE_SIDE) -> Image.Image:
    """Decodes an image file and returns its centre square, with sides of at most ``side`` pixels."""
    square = center_square(open_image(data, max_megapixels))
    if square.width <= side:
        return square
    return square.resize((side, side), Image.Resampling.LANCZOS)


def grey_png(sketch: NDArray[np.uint8]) -> bytes:
    """A grey image [H, W] as PNG."""
    sink = BytesIO()
    Image.fromarray(sketch).save(sink, "PNG")
    return sink.getvalue()
