"""The random streams of training: functions of what is drawn, never of who draws it or what was drawn before (§5)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

# Names of the streams: second word of the Philox key.
ORDER, SAMPLE, MIXTURE = 0, 1, 2


def generator(key: tuple[int, int], counter: tuple[int, int, int, int]) -> np.random.Generator:
    """The stream of these numbers.

    Philox is a function of (key, counter); it counts up in the first word, so the other three separate the streams.
    """
    return np.random.Generator(np.random.Philox(key=np.array(key, np.uint64), counter=np.array(counter, np.uint64)))


@lru_cache(maxsize=32)  # a batch may run across the border of two epochs, of every collection
def order(seed: int, phase: int, epoch: int, rows: int, collection: int = 0) -> npt.NDArray[np.int64]:
    """Permutation of an epoch over ``rows`` rows; ``collection`` separates those that have epochs of their own."""
    return generator((seed, ORDER), (0, collection, epoch, phase)).permutation(rows)
