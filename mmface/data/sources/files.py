"""What a listed collection is: its places, and one entry for each photograph in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from posixpath import splitext
from typing import Literal

from mmface.storage import Entry, Store

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
Split = Literal["train", "test"]


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
class Listing:
    """The photographs of one collection, in a fixed order.

    Attributes:
        licences: how many pictures name which licence of their own (FFHQ's metadata).
        ignored: files beside the pictures that are none by their names.
    """

    files: tuple[SourceFile, ...]
    licences: dict[str, int] = field(default_factory=dict)
    ignored: int = 0


def is_picture(key: str) -> bool:
    """Whether a file's name says that it is a picture; what it holds is seen when it is decoded."""
    return key.lower().endswith(SUFFIXES) and not PurePosixPath(key).name.startswith(".")


def stem(key: str) -> str:
    """The key without its suffix: ``deep/a.png`` → ``deep/a``."""
    return splitext(key)[0]
