"""The border between the routes and what paints for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from mmface.config import Serve
from serve.http.requests import Modality
from serve.http.schemas import Generated, Job, ModelInfo, Progress, Readiness

DECODERS = 2  # drawings decoded at once: each may take a few bytes a pixel of max_condition_megapixels


class Backend(Protocol):
    """Where the work is done: a Ray Serve handle, or a Generator in this process."""

    async def generate(self, job: Job) -> Generated:
        """Paints; cancelling it stops the work."""
        ...

    def stream(self, job: Job) -> AsyncIterator[Progress | Generated]:
        """Tells how ``job`` fares, and at last what was painted; closing or cancelling it stops the work."""
        ...

    async def convert(self, photo: bytes, modality: Modality) -> bytes:
        """Photograph to condition PNG."""
        ...

    async def describe(self) -> list[ModelInfo]:
        """The served versions, the one that answers by default first."""
        ...

    async def ready(self) -> Readiness:
        """Raises unless a real forward pass works."""
        ...


@dataclass(frozen=True)
class Service:
    """What every route works with."""

    backend: Backend
    settings: Serve
    decoding: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(DECODERS))
