"""Balances collections of different sizes in the global batches (§5, recipe key ``train.balance``).

Draws are counted over all global batches of a phase and grouped into cycles of equal length. In each cycle every
collection gets a fixed number of draws, in an order that is shuffled per cycle. The row of a draw is computed from
(seed, phase, draw) alone: it does not depend on the rank, and earlier draws need not be replayed. Each collection has
its own epochs, and each of its rows occurs once per epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from mmface.config.train import Balance
from mmface.errors import RecipeError
from mmface.train.rows.streams import MIXTURE, generator, order

FIELD = "train.balance"
LONGEST = 1000  # draws in the longest cycle; shares that need a longer one are rounded to a thousandth


@dataclass(frozen=True, eq=False)
class Mixture:
    """The collections and their number of draws in a cycle.

    Attributes:
        names: the collections, sorted.
        rows: row numbers of each collection.
        counts: draws per cycle of each collection.
    """

    names: tuple[str, ...]
    rows: tuple[npt.NDArray[np.int64], ...]
    counts: tuple[int, ...]

    def row(self, seed: int, phase: int, draw: int) -> int:
        """Row number for draw ``draw``, counted from 0 over all global batches of the phase."""
        cycle, place = divmod(draw, sum(self.counts))
        collections, earlier = _cycle(seed, phase, cycle, self.counts)
        which = int(collections[place])
        number, rows = cycle * self.counts[which] + int(earlier[place]), self.rows[which]
        epoch, within = divmod(number, len(rows))
        return int(rows[order(seed, phase, epoch, len(rows), which + 1)[within]])


def mix(sources: Sequence[str], balance: Balance) -> Mixture | None:
    """The mixture for the recipe key ``train.balance``; None for ``"none"``, where every row occurs equally often.

    Args:
        sources: [R] collection of each training row.
        balance: ``"none"``, ``"sources"`` (equal shares), or a weight for every collection.

    Raises:
        RecipeError: the weights do not name exactly these collections, or a share is too small.
    """
    if balance == "none":
        return None
    names = tuple(sorted(set(sources)))
    weights = dict.fromkeys(names, 1.0) if balance == "sources" else dict(balance)
    if set(weights) != set(names):
        message = f"weights of {', '.join(sorted(weights))}, but training rows come from {', '.join(names)}"
        raise RecipeError(f"{message}: give each of these collections one weight", field=FIELD)
    where = np.asarray(sources)
    return Mixture(
        names=names,
        rows=tuple(np.flatnonzero(where == name) for name in names),
        counts=_counts([weights[name] for name in names]),
    )


def _counts(weights: Sequence[float]) -> tuple[int, ...]:
    """Number of draws of each collection in the shortest cycle with the proportions of ``weights``."""
    shares = np.asarray(weights) / sum(weights)
    for length in range(len(shares), LONGEST + 1):
        counts = np.rint(length * shares)
        if np.abs(counts - length * shares).max() < 1e-9:
            break
    if not counts.all():
        message = f"a collection has a share below 1/{LONGEST}; raise its weight or leave the collection out"
        raise RecipeError(message, field=FIELD)
    return tuple(int(count) for count in counts)


@lru_cache(maxsize=8)
def _cycle(
    seed: int, phase: int, cycle: int, counts: tuple[int, ...]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each draw of a cycle, its collection and the number of earlier draws of that collection in this cycle."""
    each = np.repeat(np.arange(len(counts)), counts)
    collections = generator((seed, MIXTURE), (0, 0, cycle, phase)).permutation(each)
    earlier = np.empty_like(collections)
    for which in range(len(counts)):
        mine = collections == which
        earlier[mine] = np.arange(mine.sum())
    return collections, earlier
