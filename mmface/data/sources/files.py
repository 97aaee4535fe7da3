"""What a listed collection is: its places, one entry for each photograph in it, and how its sidecars fitted them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from posixpath import normpath, splitext
from typing import Any, Literal

from mmface.storage import Entry, Store

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
LINES = ".jsonl"
Split = Literal["train", "test"]
Kind = Literal["masks", "captions", "split", "parts"]

_NOT_SHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # control characters, halves of a pair
_RAW_BYTES = range(0xDC80, 0xDD00)  # how Python names bytes of a file name that are not UTF-8


@dataclass(frozen=True)
class Places:
    """Where the files of a collection are; keys of a :class:`SourceFile` are relative to these."""

    images: Store
    masks: Store | None = None
    captions: Store | None = None  # a folder of text files


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One photograph and its sidecars. Holds no bytes of pictures, so that 100,000 of them fit anywhere.

    Attributes:
        source: name of the collection.
        image: the file; for Parquet the file that ``row`` is in.
        row: number of the row in a Parquet file.
        masks: one label mask, or the part masks that are merged into one (CelebAMask-HQ).
        captions: a text file with one caption a line, or that text itself.
        split: what the collection's list says; None leaves it to the hash of the picture.
    """

    source: str
    image: Entry
    row: int | None = None
    masks: tuple[Entry, ...] = ()
    captions: Entry | str | None = None
    split: Split | None = None


@dataclass(frozen=True)
class Match:
    """How the entries of one sidecar and the pictures of its collection fit together.

    Attributes:
        kind: what the sidecar holds.
        uri: where it is.
        pictures: pictures that could have an entry; for the lists of a Parquet collection its files.
        matched: how many of them have one.
        entries: names that the sidecar holds.
        used: how many of them belong to a picture.
        without: the first pictures without an entry.
        unused: the first entries without a picture.
        ignored: files beside the entries, by suffix.
    """

    kind: Kind
    uri: str
    pictures: int
    matched: int
    entries: int
    used: int
    without: tuple[str, ...]
    unused: tuple[str, ...]
    ignored: dict[str, int]

    @property
    def share(self) -> float:
        """What ``data.min_matched`` is compared with.

        Masks and captions are asked for every picture. Lists may be of a larger collection, or name the held-out
        pictures alone, and a face may have no part: there the side that fits better counts.
        """
        of_pictures = self.matched / self.pictures
        return of_pictures if self.kind in ("masks", "captions") else max(of_pictures, self.used / self.entries)

    def summary(self) -> dict[str, Any]:
        """The counts, for the manifest."""
        return {
            "uri": self.uri,
            "matched": self.matched,
            "unmatched_pictures": self.pictures - self.matched,
            "unmatched_entries": self.entries - self.used,
            "ignored_suffixes": self.ignored,
        }


@dataclass(frozen=True)
class Listing:
    """The photographs of one collection, in a fixed order.

    Attributes:
        licences: how many pictures name which licence of their own (FFHQ's metadata).
        ignored_suffixes: files beside the pictures that are none by their names, by suffix.
        matches: one for every sidecar that was given.
    """

    files: tuple[SourceFile, ...]
    licences: dict[str, int] = field(default_factory=dict)
    ignored_suffixes: dict[str, int] = field(default_factory=dict)
    matches: tuple[Match, ...] = ()

    @property
    def ignored(self) -> int:
        """How many files are ignored."""
        return sum(self.ignored_suffixes.values())


def is_picture(key: str) -> bool:
    """Whether a file's name says that it is a picture; what it holds is seen when it is decoded."""
    return has_suffix(key, SUFFIXES)


def has_suffix(key: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a file's name ends so, in any case, and is not hidden: a Mac leaves ``._a.png`` beside ``a.png``."""
    return key.lower().endswith(suffixes) and not _is_hidden(key)


def is_lines(uri: str) -> bool:
    """Whether captions are in one JSON Lines file instead of a folder of text files."""
    return uri.lower().endswith(LINES)


def sift(entries: Iterable[Entry], keep: Callable[[str], bool]) -> tuple[list[Entry], dict[str, int]]:
    """The entries whose key is to be kept, and how many others there are, by suffix."""
    kept, others = [], Counter[str]()
    for entry in entries:
        if not entry.circle and keep(entry.key):
            kept.append(entry)
        else:
            others[_suffix_of(entry)] += 1
    return kept, dict(sorted(others.items()))


def stem(key: str) -> str:
    """The key without its suffix: ``deep/a.png`` → ``deep/a``."""
    return splitext(key)[0]


def canonical(name: str) -> str:
    """A name as it is compared: composed (NFC), with ``/``, without ``./``, a picture's suffix in lower case."""
    plain = normpath(unicodedata.normalize("NFC", name).replace("\\", "/"))
    root, suffix = splitext(plain)
    return root + suffix.lower() if suffix.lower() in (*SUFFIXES, ".parquet") else plain


def is_unicode(text: str) -> bool:
    """Whether the text can be stored: no byte of a file name that is not UTF-8, no half of a surrogate pair."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def shown(name: str) -> str:
    """A name as it is stored and printed: line breaks, control characters and bytes that are not UTF-8 escaped."""
    return _NOT_SHOWN.sub(_escape, name)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if code in _RAW_BYTES else found[0].encode("unicode_escape").decode()


def _is_hidden(key: str) -> bool:
    return PurePosixPath(key).name.startswith(".")


def _suffix_of(entry: Entry) -> str:
    if entry.circle:
        return "links in a circle"
    if _is_hidden(entry.key):
        return "hidden"
    if not entry.version:
        return "broken links"
    return shown(splitext(entry.key)[1].lower()) or "no suffix"
