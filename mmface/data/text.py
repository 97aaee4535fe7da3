"""The ``text`` stage: every caption through the text encoder once, so that training never runs it (§6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save

from mmface.components import load_text_encoder
from mmface.config import Recipe
from mmface.data.records import TEXT
from mmface.data.stage import Result, Row
from mmface.text import encode_text

EMPTY_FILE = "empty.safetensors"
CHUNK = 64


class Text:
    """Rows of ``captions`` to rows of :data:`TEXT`, in float32; equal captions are encoded once a batch."""

    name = "text"
    schema: pa.Schema = TEXT
    reads: tuple[str, ...] = ("id", "captions")

    def __init__(self, recipe: Recipe) -> None:
        self.count = recipe.data.captions_per_image
        self.tokenizer: Any
        self.text_encoder: Any
        self.tokenizer, self.text_encoder = load_text_encoder(recipe.components.text_encoder)

    def __call__(self, rows: Sequence[Row]) -> Result:
        """Sequences [captions, L, D] and pooled [captions, D] of each row."""
        unique = sorted({caption for row in rows for caption in row["captions"]})
        place = {caption: i for i, caption in enumerate(unique)}
        with torch.inference_mode():
            chunks = [
                encode_text(self.tokenizer, self.text_encoder, unique[i : i + 64]) for i in range(0, len(unique), 64)
            ]
        sequence = torch.cat([chunk[0] for chunk in chunks]).float().numpy()
        pooled = torch.cat([chunk[1] for chunk in chunks]).float().numpy()
        result = Result()
        for row in rows:
            at = [place[caption] for caption in row["captions"]]
            result.rows.append(
                {
                    "id": row["id"],
                    "sequence": np.ascontiguousarray(sequence[at], "<f4").tobytes(),
                    "pooled": np.ascontiguousarray(pooled[at], "<f4").tobytes(),
                }
            )
        return result

    def empty(self) -> tuple[bytes, dict[str, Any]]:
        """The empty prompt as a safetensors file (``sequence`` [L, D], ``pooled`` [D]) and the manifest's ``extra``."""
        with torch.inference_mode():
            sequence, pooled = encode_text(self.tokenizer, self.text_encoder, [""])
        file = save({"sequence": sequence[0].float().contiguous(), "pooled": pooled[0].float().contiguous()})
        return file, {"text_shape": [self.count, *sequence.shape[1:]]}
