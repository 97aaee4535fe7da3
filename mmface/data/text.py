"""The ``text`` stage: runs the text encoder once on every caption, so that training never runs it (§6).

The stored values reproduce the output of :func:`mmface.networks.text_encoder.encode_text` bit for bit. Equal captions
of a photograph are stored once. Of each caption only the first tokens are stored: with ``padding="masked"`` those of
the caption itself, otherwise those before the trailing tokens that equal the tokens of the empty prompt.

Shapes: S different captions of a photograph, L text tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.numpy import save

from mmface.config import Recipe
from mmface.datasets.records import EMPTY_FILE, TEXT
from mmface.datasets.stage import Result, Row
from mmface.networks.components import accelerator, load_text_encoder
from mmface.networks.text_encoder import encode_text
from mmface.store import Store

Floats = NDArray[np.float32]


class Encoded(NamedTuple):
    """Encoded captions: tokens [S, L, D], pooled [S, D], and the number of unmasked tokens of each (None: all)."""

    sequence: Floats
    pooled: Floats
    lengths: list[int] | None


class Text:
    """Rows of ``captions`` to rows of :data:`TEXT`, in float32.

    Each encoder pass has the captions of one row: rounding in matrix products can depend on their size, and the bytes
    of a row must not depend on other rows.
    """

    name = "text"
    schema: pa.Schema = TEXT
    reads: tuple[str, ...] = ("id", "captions")

    def __init__(self, recipe: Recipe) -> None:
        self.count = recipe.data.captions_per_image
        self.padding = recipe.data.text_padding
        self.tokenizer, encoder = load_text_encoder(recipe.components.text_encoder)
        self.text_encoder: Any = encoder.to(accelerator())
        self.empty = self._encode([""])

    def __call__(self, rows: Sequence[Row]) -> Result:
        """Encodes each row's captions."""
        return Result([self._row(row) for row in rows])

    def write_empty(self, store: Store) -> None:
        """Writes the encoded empty prompt into the dataset as safetensors: ``sequence`` [L, D], ``pooled`` [D] and
        ``length`` [1], its number of unmasked tokens."""
        sequence, pooled, lengths = self.empty.sequence[0], self.empty.pooled[0], self.empty.lengths
        length = np.array(lengths or [len(sequence)], np.int64)
        store.write(EMPTY_FILE, save({"sequence": sequence, "pooled": pooled, "length": length}), if_absent=True)

    def _row(self, row: Row) -> Row:
        captions = list(dict.fromkeys(row["captions"]))
        encoded = self._encode(captions)
        lengths = encoded.lengths or own_lengths(encoded.sequence, self.empty.sequence[0])
        stored = (one[:length].tobytes() for one, length in zip(encoded.sequence, lengths, strict=True))
        return {
            "id": row["id"],
            "places": [captions.index(caption) for caption in row["captions"]],
            "lengths": lengths,
            "sequence": b"".join(stored),
            "pooled": encoded.pooled.tobytes(),
        }

    def _encode(self, captions: list[str]) -> Encoded:
        encoded = encode_text(self.tokenizer, self.text_encoder, captions, self.padding)
        lengths = None if encoded.mask is None else encoded.mask.sum(1).tolist()
        return Encoded(_floats(encoded.sequence), _floats(encoded.pooled), lengths)


def own_lengths(sequence: Floats, empty: Floats) -> list[int]:
    """The number of tokens of each caption in [S, L, D] before its trailing tokens that equal ``empty`` [L, D]."""
    differs = (sequence.view(np.int32) != empty.view(np.int32)).any(-1)
    return [int(np.flatnonzero(one).max(initial=-1)) + 1 for one in differs]


def _floats(tensor: torch.Tensor) -> Floats:
    return np.ascontiguousarray(tensor.float().cpu().numpy(), "<f4")
