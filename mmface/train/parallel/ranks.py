"""Shares results and errors between the ranks of a run, so that no rank waits for one that failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from mmface.errors import MMFaceError
from mmface.train.parallel.world import World

T = TypeVar("T")


def together(world: World, make: Callable[[], T]) -> T:
    """Calls ``make`` on every rank, waits for all ranks, and returns this rank's result.

    Raises:
        MMFaceError: ``make`` raised it on some rank; every rank raises the error of the lowest such rank.
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
    """Calls ``make`` on rank 0 only, and returns its result, or raises its MMFaceError, on every rank."""
    answer = together(world, lambda: [make()] if world.rank == 0 else [])
    shared: list[T | None] = [answer[0] if answer else None]
    if world.size > 1:
        dist.broadcast_object_list(shared, device=world.device)
    return shared[0]  # type: ignore[return-value]
