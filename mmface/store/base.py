"""What both kinds of a store have in common: its entries, and what a backend can do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

HOME_VARIABLE = "MMFACE_HOME"
DEFAULT_HOME = "mmface-home"
CHUNK = 2**20
LEFT_SECONDS = 24 * 3600.0  # what no writer has finished for so long was left by a dead one


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored object: key relative to the store, size in bytes, an opaque version, and when it was written, in
    seconds since the epoch.

    The version is the ETag on S3, size and modification time of a local file, and empty for what cannot be read: a
    link that leads nowhere or to itself, a pipe. ``circle`` marks a link to a folder that the link itself lies in;
    only a listing that follows links has such entries.
    """

    key: str
    size: int
    version: str = ""
    modified: float = field(default=0.0, compare=False, repr=False)  # says nothing about the content
    circle: bool = field(default=False, compare=False, repr=False)


class Backend(Protocol):
    """What a place that keeps objects can do; keys are relative POSIX paths."""

    uri: str

    @property
    def root(self) -> Path | None: ...
    def child(self, prefix: str) -> Backend: ...
    def read(self, key: str) -> bytes: ...
    def open(self, key: str) -> BinaryIO: ...
    def write(self, key: str, data: bytes, if_absent: bool) -> bool: ...
    def write_file(self, key: str, path: Path) -> None: ...
    def exists(self, key: str) -> bool: ...
    def walk(self, prefix: str, follow_links: bool = False) -> Iterator[Entry]: ...
    def delete(self, key: str) -> None: ...
    def sweep(self) -> None: ...
