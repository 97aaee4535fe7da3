"""The ``features`` stage: one embedding per photograph, for the search for memorised pictures and for drift (§8).

Photographs are embedded as the evaluation embeds them: at the resolution of the last phase, rounded to 8 bits.

Shapes: B images, D width of the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image

from mmface.config import Recipe
from mmface.data.conditions import square_picture
from mmface.datasets.records import FEATURES
from mmface.datasets.stage import Result, Row, map_rows
from mmface.imaging.pixels import to_pil, to_tensor
from mmface.networks.components import accelerator, load_clip
from mmface.networks.standard import load_dino


class Embedder:
    """Embeds pictures with ``metrics.dino`` if the recipe names it (its class token), else with ``components.clip``.

    Attributes:
        name: ``dino`` or ``clip``: the key of its hash in the ``weights`` of the manifest.
    """

    def __init__(self, recipe: Recipe, device: str = "cpu") -> None:
        self.device = device
        if recipe.metrics.dino:
            self.name = "dino"
            model, self.processor = load_dino(recipe.metrics.dino)
        else:
            self.name = "clip"
            model, _, self.processor = load_clip(recipe.components.clip)
        self.model: Any = model.to(device)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Images of one size -> embeddings [B, D]."""
        pixels = torch.as_tensor(self.processor(images=list(images), return_tensors="pt")["pixel_values"])
        embed = self.model if self.name == "dino" else self.model.get_image_features
        embedded = embed(pixel_values=pixels.to(self.device)).pooler_output
        return np.ascontiguousarray(embedded.float().cpu().numpy(), "<f4")


class Features:
    """Rows of ``images`` to rows of :data:`FEATURES`.

    Each pass has one photograph: rounding in matrix products can depend on the batch size, and the bytes of a row must
    not depend on other rows.
    """

    name = "features"
    schema: pa.Schema = FEATURES
    reads: tuple[str, ...] = ("id", "image", "source", "split", "perceptual_hash")

    def __init__(self, recipe: Recipe) -> None:
        self.limits = recipe.data.max_megapixels, recipe.picture_side
        self.resolution = recipe.phases[-1].resolution
        self.embedder = Embedder(recipe, accelerator())

    def __call__(self, rows: Sequence[Row]) -> Result:
        """Embeds each photograph."""
        return map_rows(self.name, rows, self._row)

    def _row(self, row: Row) -> Row:
        square = square_picture(row["image"], *self.limits)
        (image,) = to_pil(to_tensor(square, self.resolution)[None])
        kept = {name: row[name] for name in self.reads if name != "image"}
        return {**kept, "features": self.embedder([image])[0].tobytes()}
