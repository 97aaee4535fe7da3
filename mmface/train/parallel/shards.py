"""Joins and divides the shards of a weight.

FSDP2 gives each rank an equal number of consecutive rows; the last ranks may get fewer or none.

Shapes: n elements of a weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor


def local(tensor: Tensor) -> Tensor:
    """This rank's shard of a sharded tensor, or a plain tensor itself; shares its memory."""
    part: Tensor = tensor.detach()
    return part.to_local() if isinstance(part, DTensor) else part


def whole(tensor: Tensor) -> Tensor:
    """The full tensor of a sharded one, or a plain tensor itself; read-only. A collective: every rank calls it."""
    full: Tensor = tensor.detach()
    return full.full_tensor() if isinstance(full, DTensor) else full


def part_length(shape: torch.Size, size: int) -> int:
    """Elements in a full shard when ``fully_shard`` divides a weight of this shape among ``size`` ranks by rows."""
    return -(-shape[0] // size) * (shape.numel() // shape[0])


@dataclass(frozen=True)
class Cut:
    """How a flattened weight is divided: rank r holds the elements from r · length up to (r + 1) · length.

    Attributes:
        group: the ranks.
        total: n.
        length: elements in a full shard; the last shards may be shorter or empty.
    """

    group: dist.ProcessGroup
    total: int
    length: int

    @classmethod
    def of(cls, weight: DTensor) -> Cut:
        """The division that ``fully_shard`` makes along dimension 0."""
        group = weight.device_mesh.get_group()
        return cls(group, weight.numel(), part_length(weight.shape, group.size()))

    def join(self, part: Tensor, unit: int = 1) -> Tensor:
        """Gathers all ranks' shards of a flat array with one value per ``unit`` elements of the weight.

        A collective: every rank calls it.
        """
        length, total = (-(-count // unit) for count in (self.length, self.total))
        padded = part.new_zeros(length)
        padded[: part.numel()] = part.flatten()
        parts = [torch.empty_like(padded) for _ in range(self.group.size())]
        dist.all_gather(parts, padded, group=self.group)
        return torch.cat(parts)[:total]

    def take(self, full: Tensor, unit: int = 1) -> Tensor:
        """This rank's flat shard of a full array; the reverse of :meth:`join`."""
        length = -(-self.length // unit)
        return full.flatten()[self.group.rank() * length :][:length]
