"""Shortens captions to the length that the text encoder reads, at the end of a sentence or clause where possible."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence

from mmface.data.captions.vocabulary import DANGLING
from mmface.errors import InputError

_CLOSING = r"[\"')\u2019\u201d]*$"
_SENTENCE = re.compile(r"[.!?]" + _CLOSING)
_CLAUSE = re.compile(r"[,;\u2013\u2014]" + _CLOSING)
_TRAILING = ",;:-\u2013\u2014 "


def cap(text: str, limit: int, count: Callable[[str], int]) -> str:
    """The beginning of ``text`` that fits into ``limit`` tokens, in whole words.

    A text that is too long is cut after its last complete sentence. If that would lose more than half of the words
    that fit, it is cut after its last clause, otherwise after a word that can end a phrase. A text that fits is kept,
    on one line.

    Args:
        text: the caption.
        limit: maximum number of tokens, start and end tokens included.
        count: number of tokens of a text, start and end tokens included; must grow with the text.

    Raises:
        InputError: not even one word fits.
    """
    words = text.split()

    def tokens(length: int) -> int:
        return count(_join(words[:length]))

    fits = len(words)
    if tokens(fits) > limit:
        fits = _pause(words[: bisect_right(range(1, fits + 1), limit, key=tokens)])
    kept = _join(words[:fits])
    if not kept:
        raise InputError("a caption has no word that fits the tokenizer", field="captions")
    return kept


def _pause(words: Sequence[str]) -> int:
    """The number of ``words`` to keep so that they end with a sentence, a clause or at least no dangling word."""
    for end in (_SENTENCE, _CLAUSE):
        last = next((length for length in range(len(words), 0, -1) if end.search(words[length - 1])), 0)
        if last * 2 >= len(words) > 0:
            return last
    length = len(words)
    while length > 1 and words[length - 1].lower() in DANGLING:
        length -= 1
    return length


def _join(words: Sequence[str]) -> str:
    return " ".join(words).rstrip(_TRAILING)
