"""What the two backends of a store share: the entries of a listing and the backend interface."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

HOME_VARIABLE = "MMFACE_HOME"
DEFAULT_HOME = "mmface-home"
CHUNK = 2**20
LEFT_SECONDS = 24 * 3600.0  # an unfinished write older than this counts as left by a dead writer


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored object.

    Attributes:
        key: relative to the store.
        size: in bytes.
        version: opaque: the ETag on S3, size and modification time of a local file. Empty for something that cannot
            be read, such as a broken link or a pipe.
        modified: when it was written, in seconds since the epoch.
        circle: whether it is a link to a folder that contains the link; only in listings that follow links.
    """

    key: str
    size: int
    version: str = ""
    modified: float = field(default=0.0, compare=False, repr=False)  # not part of the content
    circle: bool = field(default=False, compare=False, repr=False)


class Backend(Protocol):
    """Storage of objects, as :class:`mmface.store.Store` uses it; keys are relative POSIX paths."""

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
