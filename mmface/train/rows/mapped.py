"""Reads dataset columns into memory-mapped arrays with one entry per row."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from mmface.datasets.dataset import Dataset
from mmface.errors import DatasetError, TrainingError

Floats = npt.NDArray[np.float32]


class Rows:
    """The rows to read: groups of row ids, one after the other, each sorted."""

    def __init__(self, *groups: Iterable[str]) -> None:
        self.ids = [key for group in groups for key in sorted(group)]
        self._place = {key: row for row, key in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, dataset: Dataset, columns: list[str]) -> Iterator[tuple[int, list[Any]]]:
        """Yields position and Arrow values of these rows in the order of the files, with one part in memory."""
        for part in dataset.parts():
            table = dataset.part(part.path, ["id", *columns])
            for key, *values in zip(table["id"].to_pylist(), *(table[name] for name in columns), strict=True):
                if key in self._place:
                    yield self._place[key], values


def mapped(*shape: int) -> Floats:
    """An array in an unnamed file, which the system deletes when the process ends in any way.

    Reserves the blocks of the file first: otherwise a full disk would kill the process when it writes to the array.

    Raises:
        TrainingError: the disk has too little space.
    """
    size = math.prod(shape) * np.dtype(np.float32).itemsize
    try:
        with tempfile.TemporaryFile(prefix="mmface-") as file:
            if hasattr(os, "posix_fallocate"):  # macOS has none
                os.posix_fallocate(file.fileno(), 0, max(1, size))
            return np.memmap(file, np.float32, "w+", shape=shape)
    except OSError as error:
        message = f"no space for {size / 2**20:.1f} MiB of training rows in {tempfile.gettempdir()}: {error.strerror}"
        raise TrainingError(f"{message}; free space there, or set it to a larger disk", field="TMPDIR") from error


def floats(value: Any, shape: tuple[int, ...], what: str, dataset: Dataset) -> Floats:
    """An Arrow binary value as a float32 array of ``shape``.

    Raises:
        DatasetError: the value has another size; the message calls it ``what``.
    """
    found = np.frombuffer(value.as_buffer() or b"", "<f4") if value.is_valid else np.empty(0, "<f4")
    if found.size != np.prod(shape, dtype=int):
        raise DatasetError(f"{what} is not {' x '.join(map(str, shape))} float32", field=dataset.manifest.stage)
    return found.reshape(shape)
