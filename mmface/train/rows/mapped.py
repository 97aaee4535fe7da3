"""Columns of datasets as memory-mapped arrays with one place a row."""

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
    """Rows of datasets, ordered by id within each group, one group after the other."""

    def __init__(self, *groups: Iterable[str]) -> None:
        self.ids = [key for group in groups for key in sorted(group)]
        self._place = {key: row for row, key in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, dataset: Dataset, columns: list[str]) -> Iterator[tuple[int, list[Any]]]:
        """Place and Arrow values of each of these rows in ``dataset``, in file order, one part in memory at a time."""
        for part in dataset.parts():
            table = dataset.part(part.path, ["id", *columns])
            for key, *values in zip(table["id"].to_pylist(), *(table[name] for name in columns), strict=True):
                if key in self._place:
                    yield self._place[key], values


def mapped(*shape: int) -> Floats:
    """An array in an unnamed file: freed with the process, however it ends.

    Raises:
        TrainingError: the disk cannot take it. A file without its blocks would end the process where it is written to.
    """
    size = math.prod(shape) * np.dtype(np.float32).itemsize
    try:
        with tempfile.TemporaryFile(prefix="mmface-") as file:
            if hasattr(os, "posix_fallocate"):  # macOS has none
                os.posix_fallocate(file.fileno(), 0, max(1, size))
            return np.memmap(file, np.float32, "w+", shape=shape)
    except OSError as error:
        message = f"{tempfile.gettempdir()} cannot take {size / 2**20:.1f} MiB of training rows: {error.strerror}"
        raise TrainingError(f"{message}; make room there, or set it to a larger disk", field="TMPDIR") from error


def floats(value: Any, shape: tuple[int, ...], what: str, dataset: Dataset) -> Floats:
    """An Arrow binary value as float32 of ``shape``.

    Raises:
        DatasetError: it has another size; ``what`` names it.
    """
    found = np.frombuffer(value.as_buffer() or b"", "<f4") if value.is_valid else np.empty(0, "<f4")
    if found.size != np.prod(shape, dtype=int):
        raise DatasetError(f"{what} is not {' x '.join(map(str, shape))} float32", field=dataset.manifest.stage)
    return found.reshape(shape)
