"""File names: which ones are images, and a canonical form to compare names that systems write differently."""

from __future__ import annotations

import unicodedata
from posixpath import basename, normpath, splitext

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
LINES = ".jsonl"


def is_picture(key: str) -> bool:
    """Whether the file name is that of an image; the content is only checked when it is decoded."""
    return has_suffix(key, SUFFIXES)


def has_suffix(key: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a file name has one of the suffixes, in any case, and is not hidden (macOS writes ``._a.png`` files)."""
    return key.lower().endswith(suffixes) and not is_hidden(key)


def is_lines(uri: str) -> bool:
    """Whether ``captions`` is one JSON Lines file rather than a folder of text files."""
    return uri.lower().endswith(LINES)


def stem(key: str) -> str:
    """The key without its suffix: ``deep/a.png`` → ``deep/a``."""
    return splitext(key)[0]


def canonical(name: str) -> str:
    """The form in which names are compared: NFC, with ``/``, without ``./``, image suffixes in lower case."""
    plain = unicodedata.normalize("NFC", name).replace("\\", "/")
    if "/" in plain:
        plain = normpath(plain)
    suffix = splitext(plain)[1].lower()
    return plain[: -len(suffix)] + suffix if suffix in (*SUFFIXES, ".parquet") else plain


def names_of(key: str) -> tuple[str, ...]:
    """The names that may refer to a photograph: its key and its file name, each with and without suffix."""
    name = basename(key)
    return key, stem(key), name, stem(name)


def is_unicode(text: str) -> bool:
    """Whether the text can be encoded as UTF-8: no undecodable bytes of a file name, no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_hidden(key: str) -> bool:
    """Whether a file's name begins with a dot."""
    return basename(key).startswith(".")
