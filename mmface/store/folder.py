"""The local backend of :mod:`mmface.store`: writes a temporary file, then renames it, or hard-links it if only the
first writer may win."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from mmface.errors import DatasetError, ServiceError, disk_error
from mmface.store.base import CHUNK, HOME_VARIABLE, LEFT_SECONDS, Entry
from mmface.store.processes import Process

TEMPORARY = ".tmp-"
_WRITER = re.compile(rf"{re.escape(TEMPORARY)}(?P<pid>\d+)-(?P<started>\d*)-(?P<machine>[0-9a-f]*)-")
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # errors of file systems without hard links


class Folder:
    """Objects as files below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = str(root)

    def child(self, prefix: str) -> Folder:
        return Folder(self.root / prefix)

    def read(self, key: str) -> bytes:
        with self.open(key) as file:
            return file.read()

    def open(self, key: str) -> BinaryIO:
        try:
            return (self.root / key).open("rb")
        except FileNotFoundError:
            raise DatasetError(f"{key} is not in {self.uri}", field="uri") from None
        except OSError as error:
            raise ServiceError(f"{self.root / key} cannot be read: {error.strerror}", field=HOME_VARIABLE) from error

    def write(self, key: str, data: bytes, if_absent: bool) -> bool:
        return self._place(key, lambda file: file.write(data), if_absent)

    def write_file(self, key: str, path: Path) -> None:
        with path.open("rb") as source:
            self._place(key, lambda file: shutil.copyfileobj(source, file, CHUNK), False)

    def _place(self, key: str, fill: Callable[[BinaryIO], object], if_absent: bool) -> bool:
        target = self.root / key
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            return _write_file(target, fill, if_absent)
        except OSError as error:
            remedy = "free some space or choose another place, then run again: finished work is kept"
            message = f"{target} cannot be written: {error.strerror}; {remedy}"
            raise disk_error(error, message, field=HOME_VARIABLE) from error

    def exists(self, key: str) -> bool:
        return (self.root / key).is_file()

    def walk(self, prefix: str, follow_links: bool = False) -> Iterator[Entry]:
        """Follows links to files always, links to folders only with ``follow_links``; a link that leads back to a
        folder above it is listed, but not followed."""
        pending = [(prefix, self._above(prefix) if follow_links else frozenset())]
        while pending:
            below, above = pending.pop()
            try:
                with os.scandir(self.root / below) as found:
                    children = list(found)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ServiceError(f"{self.root / below} cannot be listed: {error.strerror}", field="uri") from error
            for child in children:
                key = f"{below}/{child.name}" if below else child.name
                folder = _folder_id(child) if follow_links else None
                if folder in above:
                    yield Entry(key, 0, circle=True)
                elif folder is not None:
                    pending.append((key, above | {folder}))
                elif child.is_dir(follow_symlinks=False):
                    pending.append((key, above))
                elif not child.name.startswith(TEMPORARY):
                    yield from _entry(key, child)

    def _above(self, prefix: str) -> frozenset[FolderId]:
        """Ids of the folder ``prefix`` and of all folders above it."""
        folder = (self.root / prefix).resolve()
        found = [one.stat() for one in (folder, *folder.parents) if one.is_dir()]
        return frozenset((status.st_dev, status.st_ino) for status in found)

    def delete(self, key: str) -> None:
        try:
            (self.root / key).unlink(missing_ok=True)
        except OSError as error:
            raise ServiceError(f"{self.root / key} cannot be removed: {error.strerror}", field=HOME_VARIABLE) from error

    def sweep(self) -> None:
        for path in self.root.rglob(f"{TEMPORARY}*"):
            if _is_left(path):
                path.unlink(missing_ok=True)


FolderId = tuple[int, int]  # device and inode


def _folder_id(child: os.DirEntry[str]) -> FolderId | None:
    """Id of a folder or of the folder that a link points to; None for anything else."""
    try:
        status = child.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None


def _entry(key: str, child: os.DirEntry[str]) -> Iterator[Entry]:
    try:
        status = child.stat()
    except OSError:
        if child.is_symlink():
            yield Entry(key, 0)
        return  # the file has just been deleted
    if stat.S_ISREG(status.st_mode):
        yield Entry(key, status.st_size, f"{status.st_size}-{status.st_mtime_ns}", status.st_mtime)
    elif not stat.S_ISDIR(status.st_mode):
        yield Entry(key, 0)


def _write_file(target: Path, fill: Callable[[BinaryIO], object], if_absent: bool) -> bool:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=temporary(str(os.getpid())))
    try:
        with os.fdopen(handle, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        if not if_absent:
            os.replace(name, target)
            return True
        return _link(name, target)
    finally:
        Path(name).unlink(missing_ok=True)


def _link(name: str, target: Path) -> bool:
    """Links the temporary file ``name`` to ``target`` in one step; False if ``target`` exists."""
    try:
        os.link(name, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        message = f"the file system of {target.parent} has no hard links, which concurrent writes need"
        raise ServiceError(f"{message}; choose a folder on ext4, XFS, NFS or the like", field=HOME_VARIABLE) from error
    return True


def temporary(pid: str) -> str:
    """Prefix of a temporary file's name. It identifies the writer, so that only files of dead writers are swept."""
    writer = Process.of(int(pid))
    return f"{TEMPORARY}{writer.pid}-{writer.started}-{writer.machine}-"


def _is_left(path: Path) -> bool:
    """Whether the writer of a temporary file is certainly dead, or has not written to it for ``LEFT_SECONDS``."""
    named = _WRITER.match(path.name)
    if named and Process(named["machine"], int(named["pid"]), named["started"]).is_gone():
        return True
    try:
        return time.time() - path.stat().st_mtime > LEFT_SECONDS
    except FileNotFoundError:
        return False
