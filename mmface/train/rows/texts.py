"""Encoded captions for training; adds the padding that the dataset does not store (§6).

Shapes: R rows, K captions a row, S stored captions of all rows, T their stored tokens, L text tokens, D text width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load as load_safetensors

from mmface.datasets.dataset import Dataset
from mmface.datasets.records import EMPTY_FILE
from mmface.errors import DatasetError
from mmface.train.rows.mapped import Floats, Rows, floats, mapped


@dataclass(frozen=True)
class Texts:
    """The encoded captions of every row, memory-mapped when loaded from a dataset.

    Attributes:
        place: [R, K] index of the stored caption for each caption of a row.
        start: [S + 1] index of the first token of each stored caption.
        sequence: [T, D] stored tokens, caption after caption.
        pooled: [S, D] pooled vector of each stored caption.
        empty_sequence, empty_pooled: [L, D] and [D], the empty prompt; its last tokens are the padding of captions.
        masked: whether attention ignores padding (``text_padding``). Then :meth:`read` adds no padding, and L is the
            length of the empty prompt without padding.
    """

    place: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    sequence: Floats
    pooled: Floats
    empty_sequence: Floats
    empty_pooled: Floats
    masked: bool = False

    @property
    def captions(self) -> int:
        """K, captions per row."""
        return int(self.place.shape[1])

    @property
    def tokens(self) -> int:
        """Text tokens per caption that attention uses: L, or the average length of a caption if padding is masked."""
        if not self.masked:
            return len(self.empty_sequence)
        return round(int(self.start[-1]) / (len(self.start) - 1))

    def read(self, row: int, caption: int) -> tuple[Floats, Floats]:
        """Sequence and pooled vector [D] of a caption, as ``encode_text`` returned them.

        The sequence is [L, D], or shorter if padding is masked.
        """
        place = self.place[row, caption]
        own = self.sequence[self.start[place] : self.start[place + 1]]
        return np.concatenate([own, self.empty_sequence[len(own) :]]), self.pooled[place]


def load_texts(text: Dataset, rows: Rows) -> Texts:
    """Reads the encoded captions of ``rows``.

    Args:
        text: the ``text`` dataset.
        rows: the rows to read; each must be in the dataset.

    Raises:
        DatasetError: the values of a row do not fit the shape that the manifest names, or each other.
    """
    captions, _, width = text.manifest.extra["text_shape"]
    place = np.zeros((len(rows), captions), np.int64)
    lengths: list[list[int]] = [[]] * len(rows)
    for row, (places, own) in rows.read(text, ["places", "lengths"]):
        place[row], lengths[row] = _checked(text, rows.ids[row], places.as_py(), own.as_py())
    first = _starts([len(own) for own in lengths])
    start = _starts([length for own in lengths for length in own])
    sequence, pooled = mapped(int(start[-1]), width), mapped(int(first[-1]), width)
    for row, (row_sequence, row_pooled) in rows.read(text, ["sequence", "pooled"]):
        begin, end = first[row], first[row + 1]
        own_tokens, of = slice(start[begin], start[end]), f"of row {rows.ids[row]}"
        sequence[own_tokens] = floats(row_sequence, (own_tokens.stop - own_tokens.start, width), f"sequence {of}", text)
        pooled[begin:end] = floats(row_pooled, (end - begin, width), f"pooled {of}", text)
    empty = load_safetensors(text.read(EMPTY_FILE))
    length = int(empty["length"][0])
    return Texts(
        place=place + first[:-1, None],
        start=start,
        sequence=sequence,
        pooled=pooled,
        empty_sequence=empty["sequence"][:length],
        empty_pooled=empty["pooled"],
        masked=length < len(empty["sequence"]),
    )


def _checked(text: Dataset, key: str, places: list[int], lengths: list[int]) -> tuple[list[int], list[int]]:
    captions, tokens, _ = text.manifest.extra["text_shape"]
    fitting = len(places) == captions and set(places) == set(range(len(lengths)))
    if not fitting or not all(0 <= length <= tokens for length in lengths):
        message = f"row {key} does not hold {captions} captions of at most {tokens} tokens"
        raise DatasetError(message, field=text.manifest.stage)
    return places, lengths


def _starts(lengths: list[int]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
