"""The store: one interface over a local folder (:mod:`mmface.store.folder`) and an S3 prefix (:mod:`mmface.store.s3`).

Every write is atomic, so no reader ever sees a partial object. A local write renames a temporary file, or hard-links it
if only the first writer may win. A write to S3 is a single PUT, conditional if only the first writer may win; a large
file is a multipart upload, which becomes visible with its last request.
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
    """Objects below ``uri``: a folder path, ``file://`` or ``s3://bucket/prefix``.

    Every method raises ServiceError if the storage itself fails: no permission, a full disk, S3 unreachable.
    """

    def __init__(self, uri: str | Path, *, _backend: Backend | None = None) -> None:
        self._backend = _backend or _open(str(uri))
        self.uri = self._backend.uri

    def child(self, prefix: str) -> Store:
        """The store below ``prefix``."""
        return Store("", _backend=self._backend.child(_clean(prefix)))

    def read(self, key: str) -> bytes:
        """All bytes of ``key``. Raises DatasetError if the key does not exist."""
        return self._backend.read(_clean(key))

    def open(self, key: str) -> BinaryIO:
        """Opens ``key`` as a seekable binary file; reads only what is asked for.

        Raises:
            DatasetError: the key does not exist.
        """
        return self._backend.open(_clean(key))

    def chunks(self, key: str, size: int = CHUNK) -> Iterator[bytes]:
        """The bytes of ``key`` in pieces of at most ``size``. Raises DatasetError if the key does not exist."""
        with self.open(key) as file:
            while piece := file.read(size):
                yield piece

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Writes ``key`` atomically. With ``if_absent`` only the first writer wins: returns False if the key exists."""
        return self._backend.write(_clean(key), data, if_absent)

    def write_file(self, key: str, path: Path) -> None:
        """Writes the local file ``path`` to ``key`` atomically, without loading it into memory."""
        self._backend.write_file(_clean(key), path)

    def exists(self, key: str) -> bool:
        """Whether ``key`` exists."""
        return self._backend.exists(_clean(key))

    def list(self, prefix: str = "", *, follow_links: bool = False) -> list[Entry]:
        """Every object below ``prefix``, recursively, sorted by key.

        Args:
            follow_links: also list the content of linked folders. Only for reading: code that deletes what it lists
                must not follow links.
        """
        return sorted(self._backend.walk(_clean(prefix), follow_links), key=lambda entry: entry.key)

    def delete(self, key: str) -> None:
        """Deletes ``key``; no error if it does not exist."""
        self._backend.delete(_clean(key))

    def sweep(self) -> None:
        """Deletes the leftovers of killed writers, which are not visible as keys but take up space.

        In a folder: temporary files of dead processes of this machine, and any that are older than a day. On S3:
        multipart uploads that began more than a day ago.
        """
        self._backend.sweep()

    def upload(self, folder: Path, prefix: str) -> None:
        """Copies every file of ``folder`` below ``prefix``."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.write_file(f"{prefix}/{path.relative_to(folder).as_posix()}", path)

    def __reduce__(self) -> tuple[object, ...]:
        return Store, (self.uri,)  # after unpickling, a worker opens its own connections

    @property
    def local_path(self) -> Path | None:
        """The folder of a local store, None on S3."""
        return self._backend.root


def home() -> Store:
    """The store of the home: ``MMFACE_HOME``, by default ``mmface-home`` in the working directory."""
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
        raise InputError(f"{key!r} is not a key; give a relative path without '..'", field="key")
    return "" if str(path) == "." else str(path)
