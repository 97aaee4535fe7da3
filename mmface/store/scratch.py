"""Temporary folders that do not outlive their process for good: a SIGKILL leaves gigabytes behind, the next one clears.

A lock beside the folder says that its process lives; the kernel gives it up however that process ends.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX, LOCK = "mmface-scratch-", ".lock"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder for as long as the context, in ``TMPDIR``; what killed processes left there is removed first."""
    _sweep(Path(tempfile.gettempdir()))
    with tempfile.NamedTemporaryFile(prefix=PREFIX, suffix=LOCK, delete=False) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = Path(lock.name.removesuffix(LOCK))
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            Path(lock.name).unlink(missing_ok=True)


def _sweep(place: Path) -> None:
    for path in place.glob(f"{PREFIX}*{LOCK}"):
        try:
            with path.open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(str(path).removesuffix(LOCK), ignore_errors=True)
                path.unlink(missing_ok=True)
        except (BlockingIOError, FileNotFoundError, PermissionError):
            continue  # in use, gone by itself, or another user's
