"""The ``latents-<px>`` stage: VAE moments of photograph, mask and sketch, so that training never runs the VAE (§6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image

from mmface.components import load_vae
from mmface.config import Recipe
from mmface.data.conditions import square_picture
from mmface.data.labels import mask_from_png
from mmface.data.pixels import mask_to_tensor, sketch_to_tensor, to_tensor
from mmface.data.records import LATENTS
from mmface.data.sources import open_image
from mmface.data.stage import Result, Row, map_rows
from mmface.latents import encode_moments, latent_channels, normalisation, spatial_factor


@dataclass(frozen=True)
class Original:
    """A row's pictures at the size they are stored in, at most 512 pixels a side."""

    image: Image.Image
    mask: NDArray[np.uint8]
    sketch: Image.Image


class Originals:
    """Decodes rows, each once until :meth:`forget`, however many resolutions ask for it."""

    def __init__(self, max_megapixels: float) -> None:
        self.max_megapixels = max_megapixels
        self._kept: dict[str, Original] = {}

    def __call__(self, row: Row) -> Original:
        """The row's pictures. Raises InputError if one cannot be decoded."""
        if row["id"] not in self._kept:
            self._kept[row["id"]] = Original(
                square_picture(row["image"], self.max_megapixels),
                mask_from_png(row["mask"]),
                open_image(row["sketch"], field="sketch").convert("L"),
            )
        return self._kept[row["id"]]

    def forget(self) -> None:
        """Frees what was decoded."""
        self._kept.clear()


class Latents:
    """Rows of ``images`` joined with ``conditions`` to rows of :data:`LATENTS`, in float32.

    A row's three pictures go through the encoder together and without those of other rows: what a convolution rounds
    to can depend on the size of the batch, and a row's bytes must not depend on its neighbours.

    Args:
        resolution: side of the square pictures that are encoded, in pixels.
        vae, originals: those of other resolutions, to share them.
    """

    schema: pa.Schema = LATENTS
    reads: tuple[str, ...] = ("id", "image", "source", "split", "mask", "sketch")

    def __init__(self, recipe: Recipe, resolution: int, vae: Any = None, originals: Originals | None = None) -> None:
        self.name = f"latents-{resolution}"
        self.resolution = resolution
        self.mask_resize = recipe.data.mask_resize
        self.originals = originals or Originals(recipe.data.max_megapixels)
        self.vae: Any = vae or load_vae(recipe.components.vae)

    def __call__(self, rows: Sequence[Row]) -> Result:
        """One encoder pass a row."""
        return map_rows(self.name, rows, self._encode)

    def extra(self) -> dict[str, Any]:
        """Shape and normalisation of the stored moments, for the manifest."""
        channels, side = latent_channels(self.vae), self.resolution // spatial_factor(self.vae)
        mean, std = normalisation(self.vae, channels)
        return {"latent_shape": [channels, side, side], "latent_mean": mean.tolist(), "latent_std": std.tolist()}

    @torch.inference_mode()
    def _encode(self, row: Row) -> Row:
        original, size = self.originals(row), self.resolution
        pixels = [
            to_tensor(original.image, size),
            mask_to_tensor(original.mask, size, resize=self.mask_resize),
            sketch_to_tensor(original.sketch, size),
        ]
        mean, logvar = encode_moments(self.vae, torch.stack(pixels))
        return {
            "id": row["id"],
            "source": row["source"],
            "split": row["split"],
            "image_mean": _bytes(mean[0]),
            "image_logvar": None if logvar is None else _bytes(logvar[0]),
            "mask_mean": _bytes(mean[1]),
            "sketch_mean": _bytes(mean[2]),
        }


def _bytes(tensor: torch.Tensor) -> bytes:
    return np.ascontiguousarray(tensor.float().cpu().numpy(), dtype="<f4").tobytes()
