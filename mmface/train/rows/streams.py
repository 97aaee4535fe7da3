"""The random streams of training. A stream depends only on what is drawn, not on the rank or on earlier draws (§5)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

# Numbers of the streams: the second word of the Philox key.
ORDER, SAMPLE, MIXTURE = 0, 1, 2


def generator(key: tuple[int, int], counter: tuple[int, int, int, int]) -> np.random.Generator:
    """The random generator for a key and a counter.

    Philox is a function of (key, counter). It increments the first word of the counter, so the other three words
    separate the streams.
    """
    return np.random.Generator(np.random.Philox(key=np.array(key, np.uint64), counter=np.array(counter, np.uint64)))


@lru_cache(maxsize=32)  # a batch may span two epochs of every collection
def order(seed: int, phase: int, epoch: int, rows: int, collection: int = 0) -> npt.NDArray[np.int64]:
    """Permutation of ``rows`` rows for one epoch; differs by ``collection``, since each has its own epochs."""
    return generator((seed, ORDER), (0, collection, epoch, phase)).permutation(rows)
