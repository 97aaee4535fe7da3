"""The interface between the routes and the model that generates for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from mmface.config import Serve
from serve.http.job import Generated, Job, Progress
from serve.http.requests import Modality
from serve.http.schemas import ModelInfo, Readiness

DECODERS = 2  # drawings decoded at once; each takes a few bytes per pixel, up to max_condition_megapixels


class Backend(Protocol):
    """Generates images: a Ray Serve handle, or a Generator in this process."""

    async def generate(self, job: Job) -> Generated:
        """Generates the images of ``job``. Cancelling the call stops the work."""
        ...

    def stream(self, job: Job) -> AsyncIterator[Progress | Generated]:
        """Yields progress, and at last the generated images. Closing or cancelling the iterator stops the work."""
        ...

    async def convert(self, photo: bytes, modality: Modality) -> bytes:
        """The condition PNG of a photograph."""
        ...

    async def describe(self) -> list[ModelInfo]:
        """The served versions; the first one answers by default."""
        ...

    async def ready(self) -> Readiness:
        """Does a real forward pass; raises if it fails."""
        ...


@dataclass(frozen=True)
class Service:
    """What every route needs: the backend, the settings, and a limit on concurrent decoding."""

    backend: Backend
    settings: Serve
    decoding: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(DECODERS))
