"""One small interface over a local folder and an S3 prefix.

A write is atomic on both: locally a temporary file that is renamed (or hard-linked, when it must be the first), on S3 a
single PUT (conditional, when it must be the first). Nothing half-written is ever visible under its key.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import urlsplit

from mmface.errors import DatasetError, InputError, ServiceError

HOME_VARIABLE = "MMFACE_HOME"
DEFAULT_HOME = "mmface-home"
CHUNK = 2**20


@dataclass(frozen=True)
class Entry:
    """One stored object: key relative to the store, size in bytes, an opaque version (S3 ETag, or empty), and when it
    was written, in seconds since the epoch."""

    key: str
    size: int
    version: str = ""
    modified: float = field(default=0.0, compare=False)


class Backend(Protocol):
    """What a place that keeps objects can do; keys are relative POSIX paths."""

    uri: str

    def child(self, prefix: str) -> Backend: ...
    def read(self, key: str) -> bytes: ...
    def chunks(self, key: str) -> Iterator[bytes]: ...
    def write(self, key: str, data: bytes, if_absent: bool) -> bool: ...
    def exists(self, key: str) -> bool: ...
    def walk(self, prefix: str) -> Iterator[Entry]: ...
    def delete(self, key: str) -> None: ...


class Store:
    """Objects under ``uri``: a folder path, ``file://`` or ``s3://bucket/prefix``."""

    def __init__(self, uri: str | Path, *, _backend: Backend | None = None) -> None:
        self._backend = _backend or _open(str(uri))
        self.uri = self._backend.uri

    def child(self, prefix: str) -> Store:
        """The store below ``prefix``."""
        return Store("", _backend=self._backend.child(_clean(prefix)))

    def read(self, key: str) -> bytes:
        """All bytes of ``key``. Raises DatasetError if it is not there."""
        return self._backend.read(_clean(key))

    def chunks(self, key: str) -> Iterator[bytes]:
        """The bytes of ``key`` in pieces of at most 1 MiB. Raises DatasetError if it is not there."""
        return self._backend.chunks(_clean(key))

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Writes atomically. With ``if_absent`` only the first writer wins: returns False when ``key`` was there."""
        return self._backend.write(_clean(key), data, if_absent)

    def exists(self, key: str) -> bool:
        """Whether ``key`` is stored."""
        return self._backend.exists(_clean(key))

    def list(self, prefix: str = "") -> list[Entry]:
        """Every object below ``prefix``, recursively, sorted by key."""
        return sorted(self._backend.walk(_clean(prefix)), key=lambda entry: entry.key)

    def delete(self, key: str) -> None:
        """Removes ``key``; removing what is not there is no error."""
        self._backend.delete(_clean(key))

    def download(self, prefix: str, folder: Path) -> Path:
        """Copies everything below ``prefix`` into ``folder``, keeping the layout."""
        for entry in self.list(prefix):
            target = folder / PurePosixPath(entry.key).relative_to(_clean(prefix) or ".")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.read(entry.key))
        return folder

    def upload(self, folder: Path, prefix: str) -> None:
        """Copies every file of ``folder`` below ``prefix``."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.write(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    @property
    def local_path(self) -> Path | None:
        """The folder of a local store, None on S3."""
        return self._backend.root if isinstance(self._backend, _Folder) else None


def home() -> Store:
    """Where everything is kept: ``MMFACE_HOME``, by default ``mmface-home`` in the working directory."""
    return Store(os.environ.get(HOME_VARIABLE, DEFAULT_HOME))


def _open(uri: str) -> Backend:
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        if not parts.netloc:
            raise InputError("an S3 address needs a bucket: s3://bucket/prefix", field=HOME_VARIABLE)
        return _S3(parts.netloc, parts.path.strip("/"))
    if parts.scheme in ("", "file"):
        return _Folder(Path(parts.path if parts.scheme else uri).expanduser().resolve())
    raise InputError(f"{uri!r} is neither a folder nor s3://bucket/prefix", field=HOME_VARIABLE)


def _clean(key: str) -> str:
    path = PurePosixPath(key)
    if path.is_absolute() or ".." in path.parts:
        raise InputError(f"{key!r} must be a relative path without '..'", field="key")
    return "" if str(path) == "." else str(path)


class _Folder:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = str(root)

    def child(self, prefix: str) -> _Folder:
        return _Folder(self.root / prefix)

    def read(self, key: str) -> bytes:
        try:
            return (self.root / key).read_bytes()
        except FileNotFoundError:
            raise DatasetError(f"{key} is not in {self.uri}", field="uri") from None

    def chunks(self, key: str) -> Iterator[bytes]:
        try:
            with (self.root / key).open("rb") as file:
                while piece := file.read(CHUNK):
                    yield piece
        except FileNotFoundError:
            raise DatasetError(f"{key} is not in {self.uri}", field="uri") from None

    def write(self, key: str, data: bytes, if_absent: bool) -> bool:
        target = self.root / key
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".tmp-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if not if_absent:
                os.replace(name, target)
                return True
            try:
                os.link(name, target)  # fails if the target is there, in one step
            except FileExistsError:
                return False
            return True
        finally:
            Path(name).unlink(missing_ok=True)

    def exists(self, key: str) -> bool:
        return (self.root / key).is_file()

    def walk(self, prefix: str) -> Iterator[Entry]:
        base = self.root / prefix
        for folder, _, names in os.walk(base):
            for name in names:
                if name.startswith(".tmp-"):
                    continue
                path = Path(folder) / name
                found = path.stat()
                yield Entry(path.relative_to(self.root).as_posix(), found.st_size, modified=found.st_mtime)

    def delete(self, key: str) -> None:
        (self.root / key).unlink(missing_ok=True)


class _S3:
    def __init__(self, bucket: str, prefix: str, client: Any = None) -> None:
        self.bucket, self.prefix = bucket, prefix
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        if client is None:
            import boto3

            client = boto3.client("s3")  # endpoint and credentials: the standard AWS_* variables
        self.client = client

    def child(self, prefix: str) -> _S3:
        return _S3(self.bucket, self._key(prefix), self.client)

    def read(self, key: str) -> bytes:
        response = self._call("get_object", Key=self._key(key))
        if response is None:
            raise DatasetError(f"{key} is not in {self.uri}", field="uri")
        return bytes(response["Body"].read())

    def chunks(self, key: str) -> Iterator[bytes]:
        from botocore.exceptions import BotoCoreError

        response = self._call("get_object", Key=self._key(key))
        if response is None:
            raise DatasetError(f"{key} is not in {self.uri}", field="uri")
        try:
            yield from response["Body"].iter_chunks(CHUNK)
        except BotoCoreError as error:
            raise ServiceError(f"{self.uri}: {key} broke off: {error}; try again", field=HOME_VARIABLE) from error

    def write(self, key: str, data: bytes, if_absent: bool) -> bool:
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        return self._call("put_object", Key=self._key(key), Body=data, **condition) is not None

    def exists(self, key: str) -> bool:
        return self._call("head_object", Key=self._key(key)) is not None

    def walk(self, prefix: str) -> Iterator[Entry]:
        start = len(self.prefix) + 1 if self.prefix else 0
        below = self._key(prefix)
        token: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", Prefix=f"{below}/" if below else "", **token) or {}
            for item in page.get("Contents", ()):
                written = item["LastModified"].timestamp()
                yield Entry(item["Key"][start:], int(item["Size"]), item["ETag"].strip('"'), written)
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, key: str) -> None:
        self._call("delete_object", Key=self._key(key))

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}".strip("/")

    def _call(self, operation: str, **arguments: Any) -> Any:
        """One S3 request; None for "not there" and for a refused conditional write."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(self.client, operation)(Bucket=self.bucket, **arguments)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in ("NoSuchKey", "404", "PreconditionFailed", "ConditionalRequestConflict"):
                return None
            raise ServiceError(f"{self.uri}: S3 refused {operation}: {code}", field=HOME_VARIABLE) from error
        except BotoCoreError as error:
            remedy = "check AWS_ENDPOINT_URL, the credentials and the bucket"
            raise ServiceError(f"{self.uri}: {error}; {remedy}", field=HOME_VARIABLE) from error
