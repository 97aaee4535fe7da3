"""Temporary folders that are cleaned up even after a SIGKILL: the next process deletes folders of dead processes.

A lock file beside each folder shows that its process is alive; the kernel releases the lock however the process ends.
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
    """Context manager: an empty folder in ``TMPDIR``, deleted at the end. First deletes folders of killed processes."""
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
            continue  # in use, just deleted, or owned by another user
