"""What the ranks of a run agree on: answers of rank 0, and errors, so that none waits for a rank that gave up."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from mmface.errors import MMFaceError
from mmface.train.parallel.world import World

T = TypeVar("T")


def together(world: World, make: Callable[[], T]) -> T:
    """What ``make`` returns on this rank, once every rank is through with it.

    Raises:
        MMFaceError: what it raised on the first rank where it did, on every rank.
    """
    answer: list[T] = []
    error: MMFaceError | None = None
    try:
        answer.append(make())
    except MMFaceError as raised:
        error = raised
    errors: list[MMFaceError | None] = [error]
    if world.size > 1:
        errors = [None] * world.size
        dist.all_gather_object(errors, error)
    first = next(filter(None, errors), None)
    if first is not None:
        raise first
    return answer[0]


def from_first(world: World, make: Callable[[], T]) -> T:
    """What ``make`` returns on rank 0, which alone calls it. Raises what it raised there, on every rank."""
    answer = together(world, lambda: [make()] if world.rank == 0 else [])
    shared: list[T | None] = [answer[0] if answer else None]
    if world.size > 1:
        dist.broadcast_object_list(shared, device=world.device)
    return shared[0]  # type: ignore[return-value]
