"""A weight cut over the ranks. FSDP2 gives each rank an equal run of rows; the last ranks' may be shorter, or empty.

Shapes: n elements of a weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor, or the whole of a plain one; shares its memory."""
    part: Tensor = tensor.detach()
    return part.to_local() if isinstance(part, DTensor) else part


def whole(tensor: Tensor) -> Tensor:
    """The reverse of :func:`local`, not for writing into. Every rank takes part."""
    full: Tensor = tensor.detach()
    return full.full_tensor() if isinstance(full, DTensor) else full


def part_length(shape: torch.Size, size: int) -> int:
    """Elements of a full part of a weight of this shape that ``fully_shard`` cuts over ``size`` ranks, by rows."""
    return -(-shape[0] // size) * (shape.numel() // shape[0])


@dataclass(frozen=True)
class Cut:
    """How a flattened weight is cut: rank r holds the ``length`` elements from r · length on, or those that are left.

    Attributes:
        group: the ranks.
        total: n.
        length: elements of a rank's full part.
    """

    group: dist.ProcessGroup
    total: int
    length: int

    @classmethod
    def of(cls, weight: DTensor) -> Cut:
        """The cut that ``fully_shard`` makes along dimension 0."""
        group = weight.device_mesh.get_group()
        return cls(group, weight.numel(), part_length(weight.shape, group.size()))

    def join(self, part: Tensor, unit: int = 1) -> Tensor:
        """What all ranks hold of a flat quantity with one value for ``unit`` elements. Every rank takes part."""
        length, total = (-(-count // unit) for count in (self.length, self.total))
        padded = part.new_zeros(length)
        padded[: part.numel()] = part.flatten()
        parts = [torch.empty_like(padded) for _ in range(self.group.size())]
        dist.all_gather(parts, padded, group=self.group)
        return torch.cat(parts)[:total]

    def take(self, full: Tensor, unit: int = 1) -> Tensor:
        """This rank's part of such a quantity, flat; the reverse of :meth:`join`."""
        length = -(-self.length // unit)
        return full.flatten()[self.group.rank() * length :][:length]
