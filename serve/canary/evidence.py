"""Anytime-valid tests of one question: is the canary worse than the champion by more than a limit?

Requests arrive in two streams without pairs. They are cut into blocks: a block ends as soon as it holds a value of
each version. Its *harm*, say the difference of the two means, is bounded, and its mean is the true difference, however
the requests are spread over the blocks; what changes for both versions alike, such as a busy hour, cancels.

Two tests run by betting (arXiv 2010.09686, §4). With bets λ > 0 and the limit m, the wealths ::

    worse = mean over λ of Π (1 + λ (harm_i - m))        fine = mean over λ of Π (1 - λ (harm_i - m))

are nonnegative supermartingales that start at 1, the first one if the mean harm is at most m, the second if it is at
least m. By Ville's inequality such a wealth reaches 1/p at any time with a probability of at most p. So both may be
looked at after every request. The geometric grid of bets needs no knowledge of the variance.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

# As shares of the largest bet, with which the worst harm costs everything.
BETS = 2.0 ** -np.arange(10)
MAX_BLOCK = 1000  # values of one version that wait for one of the other; older ones are dropped

Values = Sequence[float]
Harm = Callable[[Values, Values], float]
"""The harm of a block, from the values of canary and champion."""


class Wealth:
    """The logarithm of the wealth of a player who bets that the mean of ``gain`` is above 0.

    Args:
        worst: the smallest value of a gain, below 0.
    """

    def __init__(self, worst: float) -> None:
        self._bets = BETS / -worst
        self._logs = np.zeros(len(BETS))

    def add(self, gain: float) -> None:
        """Bets on one more gain. A bet that loses everything stays at zero, as a logarithm minus infinity."""
        with np.errstate(divide="ignore"):
            self._logs += np.log(np.maximum(1 + self._bets * gain, 0.0))

    @property
    def log(self) -> float:
        """Natural logarithm of the wealth; 0 at the start, minus infinity once every bet has lost."""
        largest = float(self._logs.max())
        if largest == -np.inf:
            return largest
        return largest + float(np.log(np.exp(self._logs - largest).mean()))


class Arm:
    """The values of one version: how many there were, and their mean."""

    def __init__(self) -> None:
        self.n = 0
        self.total = 0.0

    def add(self, value: float) -> None:
        """Counts one more value."""
        self.n += 1
        self.total += value

    @property
    def mean(self) -> float:
        """The mean of the values; NaN if there are none."""
        return self.total / self.n if self.n else float("nan")


class Evidence:
    """What the answers of two versions say about one question.

    Args:
        harm: of a block; larger is worse for the canary.
        limit: the largest mean harm that is accepted.
        low, high: bounds of the harm, ``low < limit < high``.
    """

    def __init__(self, harm: Harm, limit: float, low: float, high: float) -> None:
        self.canary, self.champion = Arm(), Arm()
        self._harm, self._limit = harm, limit
        self._worse, self._fine = Wealth(low - limit), Wealth(limit - high)
        self._block: dict[bool, deque[float]] = {one: deque(maxlen=MAX_BLOCK) for one in (True, False)}

    def add(self, value: float, *, canary: bool) -> None:
        """Adds the value of one request, and bets if it completes a block."""
        (self.canary if canary else self.champion).add(value)
        self._block[canary].append(value)
        if not (self._block[True] and self._block[False]):
            return
        gain = self._harm(self._block[True], self._block[False]) - self._limit
        self._worse.add(gain)
        self._fine.add(-gain)
        for values in self._block.values():
            values.clear()

    @property
    def worse(self) -> float:
        """Log of the evidence that the mean harm is above the limit."""
        return self._worse.log

    @property
    def fine(self) -> float:
        """Log of the evidence that the mean harm is below the limit."""
        return self._fine.log


def rise(canary: Values, champion: Values) -> float:
    """How much higher the canary's mean is: the harm where small values are good."""
    return _mean(canary) - _mean(champion)


def loss(canary: Values, champion: Values) -> float:
    """How much lower the canary's mean is: the harm where large values are good."""
    return _mean(champion) - _mean(canary)


def slower(factor: float) -> Harm:
    """The share of pairs in which the canary took more than ``factor`` times as long, as harm from 0 to 1.

    At a mean of 1/2 the canary's typical request takes ``factor`` times as long, whatever the distribution is
    (Hodges and Lehmann, 1963): neither heavy tails nor the unit matter.
    """

    def harm(canary: Values, champion: Values) -> float:
        pairs: npt.NDArray[np.bool_] = np.asarray(canary)[:, None] > factor * np.asarray(champion)
        return float(pairs.mean())

    return harm


def _mean(values: Values) -> float:
    return sum(values) / len(values)
