"""The ranks of a training run: their number, the rank of this process and its device."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """This process's rank, the number of ranks, and this process's device."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def sum(self, tensor: Tensor) -> Tensor:
        """Adds up ``tensor`` over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def slots(self, batch_size: int) -> list[int]:
        """This rank's slots of the global batch; ranks differ by at most one slot."""
        return [int(slot) for slot in np.array_split(np.arange(batch_size), self.size)[self.rank]]
