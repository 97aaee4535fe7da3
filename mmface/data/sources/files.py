"""What a listed collection is: its places, one entry for each photograph in it, and how its sidecars fitted them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from posixpath import splitext
from typing import Any, Literal

from mmface.data.sources.names import is_hidden
from mmface.errors import shown
from mmface.store import Entry, Store

Split = Literal["train", "test"]
Kind = Literal["masks", "captions", "split", "parts"]


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
        captions: a text file with one caption per line, or the captions themselves.
        split: what the collection's list says; None leaves it to the hash of the picture.
    """

    source: str
    image: Entry
    row: int | None = None
    masks: tuple[Entry, ...] = ()
    captions: Entry | tuple[str, ...] | None = None
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


def sift(entries: Iterable[Entry], keep: Callable[[str], bool]) -> tuple[list[Entry], dict[str, int]]:
    """The entries whose key is to be kept, and how many others there are, by suffix."""
    kept, others = [], Counter[str]()
    for entry in entries:
        if not entry.circle and keep(entry.key):
            kept.append(entry)
        else:
            others[_suffix_of(entry)] += 1
    return kept, dict(sorted(others.items()))


def _suffix_of(entry: Entry) -> str:
    if entry.circle:
        return "links in a circle"
    if is_hidden(entry.key):
        return "hidden"
    if not entry.version:
        return "broken links"
    return shown(splitext(entry.key)[1].lower()) or "no suffix"
