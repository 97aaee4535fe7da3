"""Encoded captions as the training loop reads them: the padding that was not stored is put back (§6).

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
    """The captions of every row, memory-mapped when loaded from a dataset.

    Attributes:
        place: [R, K] which stored caption a row's caption is.
        start: [S + 1] where a stored caption's tokens start.
        sequence: [T, D] stored tokens, caption after caption.
        pooled: [S, D].
        empty_sequence, empty_pooled: [L, D] and [D], the empty prompt, whose tokens follow the stored ones.
        masked: nobody attends to padding, so it was not stored and is not put back (``text_padding``); L is then the
            empty prompt's own length.
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
        """K."""
        return int(self.place.shape[1])

    @property
    def tokens(self) -> int:
        """Text tokens of a caption that take part: L, or its own where padding is masked, on average."""
        if not self.masked:
            return len(self.empty_sequence)
        return round(int(self.start[-1]) / (len(self.start) - 1))

    def read(self, row: int, caption: int) -> tuple[Floats, Floats]:
        """Sequence, [L, D] or a caption's own tokens, and pooled [D], as ``encode_text`` gave them."""
        place = self.place[row, caption]
        own = self.sequence[self.start[place] : self.start[place + 1]]
        return np.concatenate([own, self.empty_sequence[len(own) :]]), self.pooled[place]


def load_texts(text: Dataset, rows: Rows) -> Texts:
    """Reads the captions of ``rows``.

    Args:
        text: the ``text`` dataset.
        rows: which; each must be there.

    Raises:
        DatasetError: a row whose values do not fit the manifest's shape or each other.
    """
    captions, _, width = text.manifest.extra["text_shape"]
    place = np.zeros((len(rows), captions), np.int64)
    lengths: list[list[int]] = [[]] * len(rows)
    for row, (places, own) in rows.read(text, ["places", "lengths"]):
        place[row], lengths[row] = _checked(text, rows.ids[row], places.as_py(), own.as_py())
    first = _starts([len(own) for own in lengths])
    start = _starts([length for own in lengths for length in own])
    sequence, pooled = mapped(int(start[-1]), width), mapped(int(first[-1]), width)
    for row, (said, summary) in rows.read(text, ["sequence", "pooled"]):
        begin, end = first[row], first[row + 1]
        own_tokens, of = slice(start[begin], start[end]), f"of row {rows.ids[row]}"
        sequence[own_tokens] = floats(said, (own_tokens.stop - own_tokens.start, width), f"sequence {of}", text)
        pooled[begin:end] = floats(summary, (end - begin, width), f"pooled {of}", text)
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
