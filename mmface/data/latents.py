"""The ``latents-<px>`` stage: VAE moments of photograph, mask and sketch, so that training never runs the VAE (§6)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image

from mmface.config import PICTURE_SIDE, Recipe
from mmface.data.conditions import square_picture
from mmface.data.sources import open_image
from mmface.datasets.records import LATENTS
from mmface.datasets.stage import Result, Row, map_rows
from mmface.imaging.labels import MIRRORED, mask_from_png
from mmface.imaging.pixels import mask_to_tensor, sketch_to_tensor, to_tensor
from mmface.networks.components import accelerator, load_vae
from mmface.networks.vae import encode_moments, latent_channels, normalisation, spatial_factor

SMALLEST_CROP = 0.75  # side of a further view, as a share of the photograph's


@dataclass(frozen=True)
class Original:
    """Photograph, mask and sketch of a row, with sides of at most ``Recipe.picture_side`` pixels."""

    image: Image.Image
    mask: NDArray[np.uint8]
    sketch: Image.Image

    def views(self, key: str, count: int) -> Iterator[Original]:
        """``count`` views: this one, then random square crops, every second one mirrored; ``key`` is the seed."""
        yield self
        random = np.random.default_rng(list(hashlib.sha256(key.encode()).digest()))
        for place in range(1, count):
            side = random.uniform(SMALLEST_CROP, 1)
            left, top = random.uniform(0, 1 - side, 2)
            view = self._crop(left, top, side)
            yield view._mirror() if place % 2 else view

    def _crop(self, left: float, top: float, side: float) -> Original:
        """A square crop; the arguments are shares of the side, 0..1."""

        def box(size: int) -> tuple[int, int, int, int]:
            x, y, length = round(left * size), round(top * size), round(side * size)
            return x, y, x + length, y + length

        mask = Image.fromarray(self.mask)
        return Original(
            self.image.crop(box(self.image.width)),
            np.asarray(mask.crop(box(mask.width))),
            self.sketch.crop(box(self.sketch.width)),
        )

    def _mirror(self) -> Original:
        """Mirrored left to right; left and right labels are exchanged."""
        flip = Image.Transpose.FLIP_LEFT_RIGHT
        labels = MIRRORED[self.mask[:, ::-1]].astype(np.uint8)
        return Original(self.image.transpose(flip), labels, self.sketch.transpose(flip))


class Originals:
    """Decodes rows and caches them until :meth:`forget`, so that all resolutions share one decoding."""

    def __init__(self, max_megapixels: float, side: int = PICTURE_SIDE) -> None:
        self.max_megapixels, self.side = max_megapixels, side
        self._kept: dict[str, Original] = {}

    def __call__(self, row: Row) -> Original:
        """Photograph, mask and sketch of the row. Raises InputError if one cannot be decoded."""
        if row["id"] not in self._kept:
            self._kept[row["id"]] = Original(
                square_picture(row["image"], self.max_megapixels, self.side),
                mask_from_png(row["mask"]),
                open_image(row["sketch"], field="sketch").convert("L"),
            )
        return self._kept[row["id"]]

    def forget(self) -> None:
        """Empties the cache."""
        self._kept.clear()


class Latents:
    """Rows of ``images`` joined with ``conditions`` to rows of :data:`LATENTS`, in float32.

    Each encoder pass has the three images of one view: rounding in convolutions can depend on the batch size, and the
    bytes of a row must not depend on other rows.

    Args:
        resolution: side of the encoded square images, in pixels.
        vae, originals: from the stage of another resolution, to share them.
    """

    schema: pa.Schema = LATENTS
    reads: tuple[str, ...] = ("id", "image", "source", "split", "mask", "sketch")

    def __init__(self, recipe: Recipe, resolution: int, vae: Any = None, originals: Originals | None = None) -> None:
        self.name = f"latents-{resolution}"
        self.resolution = resolution
        self.mask_resize = recipe.data.mask_resize
        self.views = recipe.data.views
        self.originals = originals or Originals(recipe.data.max_megapixels, recipe.picture_side)
        self.vae: Any = vae or load_vae(recipe.components.vae).to(accelerator())

    def __call__(self, rows: Sequence[Row]) -> Result:
        """Encodes each row, with one encoder pass per view."""
        return map_rows(self.name, rows, self._encode)

    def extra(self) -> dict[str, Any]:
        """Shape and normalisation of the stored moments, for the manifest."""
        channels, side = latent_channels(self.vae), self.resolution // spatial_factor(self.vae)
        mean, std = normalisation(self.vae, channels)
        return {
            "latent_views": self.views,
            "latent_shape": [channels, side, side],
            "latent_mean": mean.tolist(),
            "latent_std": std.tolist(),
        }

    @torch.inference_mode()
    def _encode(self, row: Row) -> Row:
        views = self.originals(row).views(row["id"], self.views)
        means, logvars = zip(*map(self._moments, views), strict=True)
        image, mask, sketch = torch.stack(means, 1)
        return {
            "id": row["id"],
            "source": row["source"],
            "split": row["split"],
            "image_mean": _bytes(image),
            "image_logvar": None if logvars[0] is None else _bytes(torch.stack([one[0] for one in logvars])),
            "mask_mean": _bytes(mask),
            "sketch_mean": _bytes(sketch),
        }

    def _moments(self, view: Original) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Means and log-variances [3, C, H, W] of photograph, mask and sketch; None for a VAE without variance."""
        pixels = [
            to_tensor(view.image, self.resolution),
            mask_to_tensor(view.mask, self.resolution, resize=self.mask_resize),
            sketch_to_tensor(view.sketch, self.resolution),
        ]
        return encode_moments(self.vae, torch.stack(pixels))


def _bytes(tensor: torch.Tensor) -> bytes:
    return np.ascontiguousarray(tensor.float().cpu().numpy(), dtype="<f4").tobytes()
