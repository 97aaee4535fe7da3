"""A listed collection: its folders, one entry per photograph, and how well each sidecar matches the photographs."""

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
    """The folders of a collection; keys of a :class:`SourceFile` are relative to them."""

    images: Store
    masks: Store | None = None
    captions: Store | None = None  # a folder of text files, one per photograph


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One photograph and its sidecars, without their bytes: 100,000 of them fit into memory.

    Attributes:
        source: name of the collection.
        image: the file; for Parquet the file that contains ``row``.
        row: number of the row in a Parquet file.
        masks: one label mask, or the part masks to merge into one (CelebAMask-HQ).
        captions: a text file with one caption per line, or the captions themselves.
        split: the split that a list of the collection states; None means the hash of the photograph decides.
    """

    source: str
    image: Entry
    row: int | None = None
    masks: tuple[Entry, ...] = ()
    captions: Entry | tuple[str, ...] | None = None
    split: Split | None = None


@dataclass(frozen=True)
class Match:
    """How the entries of one sidecar match the photographs of its collection.

    Attributes:
        kind: what the sidecar contains.
        uri: its folder or file.
        pictures: number of photographs; for the lists of a Parquet collection, the number of its files.
        matched: how many photographs have an entry.
        entries: number of names in the sidecar.
        used: how many names match a photograph.
        without: the first photographs without an entry.
        unused: the first entries without a photograph.
        ignored: number of other files in the folder, by suffix.
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
        """The share of matches, 0..1, that must reach ``data.min_matched``.

        For masks and captions, the share of photographs with an entry. Lists may cover a larger collection or name
        only the held-out photographs, and a face may have no part masks: for these, the larger of the shares of
        matched photographs and of matched entries.
        """
        of_pictures = self.matched / self.pictures
        return of_pictures if self.kind in ("masks", "captions") else max(of_pictures, self.used / self.entries)

    def summary(self) -> dict[str, Any]:
        """The counts that go into the manifest."""
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
        licences: number of photographs by the licence stated for each (FFHQ's metadata).
        ignored_suffixes: number of files that are not photographs by their names, by suffix.
        matches: one for every sidecar that the recipe or the layout names.
    """

    files: tuple[SourceFile, ...]
    licences: dict[str, int] = field(default_factory=dict)
    ignored_suffixes: dict[str, int] = field(default_factory=dict)
    matches: tuple[Match, ...] = ()

    @property
    def ignored(self) -> int:
        """The number of ignored files."""
        return sum(self.ignored_suffixes.values())


def sift(entries: Iterable[Entry], keep: Callable[[str], bool]) -> tuple[list[Entry], dict[str, int]]:
    """Returns the entries whose key ``keep`` accepts, and the number of ignored ones by suffix."""
    kept, ignored = [], Counter[str]()
    for entry in entries:
        if not entry.circle and keep(entry.key):
            kept.append(entry)
        else:
            ignored[_suffix_of(entry)] += 1
    return kept, dict(sorted(ignored.items()))


def _suffix_of(entry: Entry) -> str:
    if entry.circle:
        return "links in a circle"
    if is_hidden(entry.key):
        return "hidden"
    if not entry.version:
        return "broken links"
    return shown(splitext(entry.key)[1].lower()) or "no suffix"
