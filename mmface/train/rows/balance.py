"""How collections of different sizes share the global batches (§5).

Shares are kept by a cycle: of every ``len(cycle)`` draws each collection gets its fixed number, in an order of that
cycle's own. So the draw that a slot is has a row by arithmetic alone: it depends on (seed, phase, draw) and not on the
rank, and no earlier draw has to be replayed. A collection runs through epochs of its own, each row once an epoch.
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
LONGEST = 1000  # draws of a cycle: shares that need more are kept to the nearest thousandth


@dataclass(frozen=True, eq=False)
class Mixture:
    """Collections and what they get of every cycle.

    Attributes:
        names: of the collections, sorted.
        rows: row numbers of each.
        counts: draws that each gets of one cycle.
    """

    names: tuple[str, ...]
    rows: tuple[npt.NDArray[np.int64], ...]
    counts: tuple[int, ...]

    def row(self, seed: int, phase: int, draw: int) -> int:
        """Row of draw ``draw`` of the phase, counted over all global batches."""
        cycle, place = divmod(draw, sum(self.counts))
        collections, earlier = _cycle(seed, phase, cycle, self.counts)
        which = int(collections[place])
        number, rows = cycle * self.counts[which] + int(earlier[place]), self.rows[which]
        epoch, within = divmod(number, len(rows))
        return int(rows[order(seed, phase, epoch, len(rows), which + 1)[within]])


def mix(sources: Sequence[str], balance: Balance) -> Mixture | None:
    """The mixture that a recipe asks for, None for ``"none"``: then every row comes equally often.

    Args:
        sources: [R] collection of each training row.
        balance: ``"none"``, ``"sources"`` (equal shares), or a weight for every collection.

    Raises:
        RecipeError: the weights are not those of just these collections.
    """
    if balance == "none":
        return None
    names = tuple(sorted(set(sources)))
    weights = dict.fromkeys(names, 1.0) if balance == "sources" else dict(balance)
    if set(weights) != set(names):
        message = f"weights of {', '.join(sorted(weights))}, but training rows come from {', '.join(names)}"
        raise RecipeError(f"{message}: give each of them one weight", field=FIELD)
    where = np.asarray(sources)
    return Mixture(
        names=names,
        rows=tuple(np.flatnonzero(where == name) for name in names),
        counts=_counts([weights[name] for name in names]),
    )


def _counts(weights: Sequence[float]) -> tuple[int, ...]:
    """Draws of each collection in the shortest cycle that keeps the proportion of ``weights``."""
    shares = np.asarray(weights) / sum(weights)
    for length in range(len(shares), LONGEST + 1):
        counts = np.rint(length * shares)
        if np.abs(counts - length * shares).max() < 1e-9:
            break
    if not counts.all():
        raise RecipeError(f"a share below 1/{LONGEST} cannot be kept; leave that collection out", field=FIELD)
    return tuple(int(count) for count in counts)


@lru_cache(maxsize=8)
def _cycle(
    seed: int, phase: int, cycle: int, counts: tuple[int, ...]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Collection of each draw of a cycle, and how many draws that collection had in it before."""
    each = np.repeat(np.arange(len(counts)), counts)
    collections = generator((seed, MIXTURE), (0, 0, cycle, phase)).permutation(each)
    earlier = np.empty_like(collections)
    for which in range(len(counts)):
        mine = collections == which
        earlier[mine] = np.arange(mine.sum())
    return collections, earlier
