"""One small interface over a local folder (:mod:`mmface.store.folder`) and an S3 prefix (:mod:`mmface.store.s3`).

A write is atomic on both: locally a temporary file that is renamed (or hard-linked, when it must be the first), on S3 a
single PUT (conditional, when it must be the first; of a large file in parts that the last request joins). Nothing
half-written is ever visible under its key.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import urlsplit

from mmface.errors import InputError
from mmface.store.base import CHUNK, DEFAULT_HOME, HOME_VARIABLE, Backend, Entry

__all__ = ["HOME_VARIABLE", "Entry", "Store", "home"]


class Store:
    """Objects under ``uri``: a folder path, ``file://`` or ``s3://bucket/prefix``.

    Every method raises ServiceError when the place itself fails: no permission, a full disk, S3 out of reach.
    """

    def __init__(self, uri: str | Path, *, _backend: Backend | None = None) -> None:
        self._backend = _backend or _open(str(uri))
        self.uri = self._backend.uri

    def child(self, prefix: str) -> Store:
        """The store below ``prefix``."""
        return Store("", _backend=self._backend.child(_clean(prefix)))

    def read(self, key: str) -> bytes:
        """All bytes of ``key``. Raises DatasetError if it is not there."""
        return self._backend.read(_clean(key))

    def open(self, key: str) -> BinaryIO:
        """``key`` for reading here and there without all of its bytes. Raises DatasetError if it is not there."""
        return self._backend.open(_clean(key))

    def chunks(self, key: str, size: int = CHUNK) -> Iterator[bytes]:
        """The bytes of ``key`` in pieces of at most ``size``. Raises DatasetError if it is not there."""
        with self.open(key) as file:
            while piece := file.read(size):
                yield piece

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Writes atomically. With ``if_absent`` only the first writer wins: returns False when ``key`` was there."""
        return self._backend.write(_clean(key), data, if_absent)

    def write_file(self, key: str, path: Path) -> None:
        """Writes the content of the local file ``path`` atomically, whatever its size, without having it in memory."""
        self._backend.write_file(_clean(key), path)

    def exists(self, key: str) -> bool:
        """Whether ``key`` is stored."""
        return self._backend.exists(_clean(key))

    def list(self, prefix: str = "", *, follow_links: bool = False) -> list[Entry]:
        """Every object below ``prefix``, recursively, sorted by key.

        Args:
            follow_links: lists what is in linked folders too. For collections, which are only read: whoever removes
                what is listed must not reach through a link.
        """
        return sorted(self._backend.walk(_clean(prefix), follow_links), key=lambda entry: entry.key)

    def delete(self, key: str) -> None:
        """Removes ``key``; removing what is not there is no error."""
        self._backend.delete(_clean(key))

    def sweep(self) -> None:
        """Removes what killed writers left behind: never visible as a key, it only takes room.

        Locally temporary files: of a dead process of this machine at once, of others after a day. On S3 the parts of
        multipart uploads that began more than a day ago.
        """
        self._backend.sweep()

    def upload(self, folder: Path, prefix: str) -> None:
        """Copies every file of ``folder`` below ``prefix``."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.write_file(f"{prefix}/{path.relative_to(folder).as_posix()}", path)

    def __reduce__(self) -> tuple[object, ...]:
        return Store, (self.uri,)  # a worker opens its own connections

    @property
    def local_path(self) -> Path | None:
        """The folder of a local store, None on S3."""
        return self._backend.root


def home() -> Store:
    """Where everything is kept: ``MMFACE_HOME``, by default ``mmface-home`` in the working directory."""
    return Store(os.environ.get(HOME_VARIABLE, DEFAULT_HOME))


def _open(uri: str) -> Backend:
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        if not parts.netloc:
            raise InputError("an S3 address needs a bucket: s3://bucket/prefix", field=HOME_VARIABLE)
        from mmface.store.s3 import S3

        return S3(parts.netloc, parts.path.strip("/"))
    if parts.scheme in ("", "file"):
        from mmface.store.folder import Folder

        return Folder(Path(parts.path if parts.scheme else uri).expanduser().resolve())
    raise InputError(f"{uri!r} is neither a folder nor s3://bucket/prefix", field=HOME_VARIABLE)


def _clean(key: str) -> str:
    path = PurePosixPath(key)
    if path.is_absolute() or ".." in path.parts:
        raise InputError(f"{key!r} must be a relative path without '..'", field="key")
    return "" if str(path) == "." else str(path)
