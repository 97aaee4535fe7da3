"""Text without what a tokenizer cannot say: control characters, pictographs, spelled-out special tokens."""

from __future__ import annotations

import re
import unicodedata

SPECIAL_TOKEN = re.compile(r"<\|[^|<>]{0,40}\|>")


def clean(text: str) -> str:
    """``text`` in NFC on one line, without control characters, pictographs and special tokens; may be empty.

    A tokenizer reads ``<|endoftext|>`` as the end of the text, and a pictograph outside its vocabulary as that same
    token: either would hide the rest of the caption.
    """
    spelled = unicodedata.normalize("NFC", SPECIAL_TOKEN.sub(" ", text))
    kept = "".join(char if speakable(char) else _gap(char) for char in spelled)
    return " ".join(kept.split())


def speakable(char: str) -> bool:
    """Neither a control character (any of Unicode's C categories) nor a pictograph or its modifiers."""
    category = unicodedata.category(char)
    if char <= "\u00ff":  # degree sign, backtick and circumflex share their categories with pictographs
        return category[0] != "C"
    return category[0] != "C" and category not in ("So", "Sk", "Me") and not "\ufe00" <= char <= "\ufe0f"


def _gap(char: str) -> str:
    # Format characters (soft hyphen, zero-width joiner) stand inside words; whatever else goes parts them.
    return "" if unicodedata.category(char) == "Cf" else " "
