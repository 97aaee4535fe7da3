"""What a file's name says, and how names that people and systems write differently are compared."""

from __future__ import annotations

import unicodedata
from posixpath import basename, normpath, splitext

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
LINES = ".jsonl"


def is_picture(key: str) -> bool:
    """Whether a file's name says that it is a picture; what it holds is seen when it is decoded."""
    return has_suffix(key, SUFFIXES)


def has_suffix(key: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a file's name ends so, in any case, and is not hidden: a Mac leaves ``._a.png`` beside ``a.png``."""
    return key.lower().endswith(suffixes) and not is_hidden(key)


def is_lines(uri: str) -> bool:
    """Whether captions are in one JSON Lines file instead of a folder of text files."""
    return uri.lower().endswith(LINES)


def stem(key: str) -> str:
    """The key without its suffix: ``deep/a.png`` → ``deep/a``."""
    return splitext(key)[0]


def canonical(name: str) -> str:
    """A name as it is compared: composed (NFC), with ``/``, without ``./``, a picture's suffix in lower case."""
    plain = unicodedata.normalize("NFC", name).replace("\\", "/")
    if "/" in plain:
        plain = normpath(plain)
    suffix = splitext(plain)[1].lower()
    return plain[: -len(suffix)] + suffix if suffix in (*SUFFIXES, ".parquet") else plain


def names_of(key: str) -> tuple[str, ...]:
    """What a picture may be called: its key, its key without suffix, its file name, or that without suffix."""
    name = basename(key)
    return key, stem(key), name, stem(name)


def is_unicode(text: str) -> bool:
    """Whether the text can be stored: no byte of a file name that is not UTF-8, no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_hidden(key: str) -> bool:
    """Whether a file's name begins with a dot."""
    return basename(key).startswith(".")
