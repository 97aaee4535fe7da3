"""Removes what a tokenizer misreads: control characters, pictographs, special tokens written as text."""

from __future__ import annotations

import re
import unicodedata

SPECIAL_TOKEN = re.compile(r"<\|[^|<>]{0,40}\|>")


def clean(text: str) -> str:
    """``text`` in NFC on one line, without control characters, pictographs and special tokens; may be empty.

    A tokenizer reads ``<|endoftext|>`` as the end of the text, and an unknown pictograph as the same token: the rest
    of the caption would be lost.
    """
    spelled = unicodedata.normalize("NFC", SPECIAL_TOKEN.sub(" ", text))
    kept = "".join(char if speakable(char) else _gap(char) for char in spelled)
    return " ".join(kept.split())


def speakable(char: str) -> bool:
    """Whether a character is neither a control character (Unicode categories C*) nor a pictograph or its modifier."""
    category = unicodedata.category(char)
    if char <= "\u00ff":  # the degree sign, ` and ^ have the same categories as pictographs
        return category[0] != "C"
    return category[0] != "C" and category not in ("So", "Sk", "Me") and not "\ufe00" <= char <= "\ufe0f"


def _gap(char: str) -> str:
    # Format characters (soft hyphen, zero-width joiner) occur inside words; every other removed one separates words.
    return "" if unicodedata.category(char) == "Cf" else " "
