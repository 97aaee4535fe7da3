"""The ``latents-<px>`` stage: VAE moments of photograph, mask and sketch, so that training never runs the VAE (§6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mmface.components import load_vae
from mmface.config import Recipe
from mmface.data.conditions import square_picture
from mmface.data.labels import mask_from_png
from mmface.data.pixels import mask_to_tensor, sketch_to_tensor, to_tensor
from mmface.data.records import LATENTS
from mmface.data.sources import open_image
from mmface.data.stage import Result, Row, map_rows
from mmface.latents import encode_moments, normalisation

CHUNK = 16


class Latents:
    """Rows of ``images`` joined with ``conditions`` to rows of :data:`LATENTS`, in float32."""

    schema: pa.Schema = LATENTS
    reads: tuple[str, ...] = ("id", "image", "split", "mask", "sketch")

    def __init__(self, recipe: Recipe, resolution: int) -> None:
        self.name = f"latents-{resolution}"
        self.resolution = resolution
        self.max_megapixels = recipe.data.max_megapixels
        self.mask_resize = recipe.data.mask_resize
        self.vae: Any = load_vae(recipe.components.vae)

    def __call__(self, rows: Sequence[Row]) -> Result:
        """One encoder pass for photograph, mask and sketch of each chunk of rows."""
        decoded = map_rows(self.name, rows, self._decode)
        result = Result(quarantined=decoded.quarantined)
        for start in range(0, len(decoded.rows), CHUNK):
            result.rows.extend(self._encode(decoded.rows[start : start + CHUNK]))
        return result

    def extra(self) -> dict[str, Any]:
        """Shape and normalisation of the stored moments, for the manifest."""
        probe, _ = encode_moments(self.vae, torch.zeros(1, 3, self.resolution, self.resolution))
        mean, std = normalisation(self.vae, probe.shape[1])
        return {"latent_shape": list(probe.shape[1:]), "latent_mean": mean.tolist(), "latent_std": std.tolist()}

    def _decode(self, row: Row) -> Row:
        picture = square_picture(row["image"], self.max_megapixels)
        size = self.resolution
        pixels = torch.stack(
            [
                to_tensor(picture, size),
                mask_to_tensor(mask_from_png(row["mask"]), size, resize=self.mask_resize),
                sketch_to_tensor(open_image(row["sketch"], field="sketch").convert("L"), size),
            ]
        )
        return {"id": row["id"], "split": row["split"], "pixels": pixels}

    def _encode(self, rows: list[Row]) -> list[Row]:
        pixels = torch.stack([row["pixels"] for row in rows])  # [B, 3 pictures, 3, H, W]
        with torch.inference_mode():
            mean, logvar = encode_moments(self.vae, pixels.flatten(0, 1))
        means = mean.view(-1, 3, *mean.shape[1:])
        logvars = None if logvar is None else logvar.view(-1, 3, *mean.shape[1:])
        return [
            {
                "id": row["id"],
                "split": row["split"],
                "image_mean": _bytes(means[i, 0]),
                "image_logvar": None if logvars is None else _bytes(logvars[i, 0]),
                "mask_mean": _bytes(means[i, 1]),
                "sketch_mean": _bytes(means[i, 2]),
            }
            for i, row in enumerate(rows)
        ]


def _bytes(tensor: torch.Tensor) -> bytes:
    return np.ascontiguousarray(tensor.float().numpy(), dtype="<f4").tobytes()
