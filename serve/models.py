"""The versions that a replica serves: it follows the registry's aliases while it answers (§9).

When an alias moves, the new version is loaded beside the old one and must paint its registered preview; then new
requests go to it and the old one finishes what it has. A version that fails is refused, and the old one stays.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
from collections.abc import Callable

from torch import nn

from mmface.config import Serve
from mmface.errors import MMFaceError, RegistryError, ServiceError
from mmface.pipeline import MMFacePipeline
from mmface.precision import keep_in_bf16
from mmface.preview import preview_error
from mmface.registry import get_alias, load_bundle
from serve.generator import Generator
from serve.schemas import Job
from serve.threads import in_own_thread

log = logging.getLogger(__name__)

OnSwap = Callable[[str, str], None]
"""Told a version, and "serving", "refused" or "retired"."""


class Models:
    """The generator of each alias.

    Args:
        settings: the model's name, its aliases, and how often to look where they point.
        on_step: told version, images and seconds of each denoising step.
        on_swap: told what becomes of versions.
        device: where transformers run.
    """

    def __init__(
        self, settings: Serve, on_step: Callable[[str, int, float], None], on_swap: OnSwap, device: str
    ) -> None:
        self.settings = settings
        self._on_step = on_step
        self._on_swap = on_swap
        self._device = device
        self._serving: dict[str, Generator] = {}
        self._refused: dict[str, tuple[str, Exception]] = {}  # by alias: the version it points to, and why not
        self._aliases = [settings.alias, *([settings.canary] if settings.canary else [])]

    def champion(self) -> Generator:
        """What answers by default.

        Raises:
            ServiceError: no version could be loaded yet; says why.
        """
        alias = self.settings.alias
        if alias in self._serving:
            return self._serving[alias]
        if alias in self._refused:
            version, error = self._refused[alias]
            raise ServiceError(f"version {version} cannot be served: {error}", field="serve.alias")
        message = f"{self.settings.model_name} has no {alias} yet: run mmface retrain"
        raise ServiceError(message, field="serve.alias")

    def choose(self, job: Job) -> Generator:
        """Who paints a job: the version it insists on; of the rest, a canary gets its share, always the same seeds."""
        for generator in self.serving():
            if generator.info.version == job.version:
                return generator
        canary = self._serving.get(self.settings.canary or "")
        if canary is not None and _spread(job.seeds[0]) < self.settings.canary_share:
            return canary
        return self.champion()

    def serving(self) -> list[Generator]:
        """Every version that answers, the champion first."""
        return [self._serving[alias] for alias in self._aliases if alias in self._serving]

    async def follow(self) -> None:
        """Looks at the aliases for ever."""
        while True:
            await asyncio.sleep(self.settings.follow_s)
            await self.look()

    async def look(self) -> None:
        """Takes over what the aliases point to now. A registry that cannot be reached changes nothing."""
        for alias in self._aliases:
            try:
                version = await asyncio.to_thread(get_alias, self.settings.model_name, alias)
            except MMFaceError as error:
                log.warning("serve: %s", error.message)
                return
            serving = self._serving.get(alias)
            if version is not None and version != (serving and serving.info.version):
                await self._take(alias, version)
            elif version is None and alias != self.settings.alias:
                self._replace(alias, None)  # the canary's trial has ended; a deleted champion goes on

    async def _take(self, alias: str, version: str) -> None:
        refused, error = self._refused.get(alias, ("", None))
        if refused == version and not isinstance(error, ServiceError):
            return
        try:
            fresh = await in_own_thread(lambda: self.load(version))
        except (MMFaceError, OSError, RuntimeError) as error:
            log.error("serve: version %s is refused: %s", version, error)
            self._refused[alias] = version, error
            self._on_swap(version, "refused")
            return
        self._refused.pop(alias, None)
        log.info("serve: version %s is %s now", version, alias)
        self._replace(alias, fresh)

    def _replace(self, alias: str, fresh: Generator | None) -> None:
        """From here on ``fresh`` gets what comes; who answered before finishes what it has."""
        old = self._serving.pop(alias, None)
        if fresh is not None:
            self._serving[alias] = fresh
            self._on_swap(fresh.info.version, "serving")
        if old is not None:
            old.engine.close()
            self._on_swap(old.info.version, "retired")

    def load(self, version: str) -> Generator:
        """A version ready to serve, which has painted its registered preview.

        Raises:
            RegistryError: it is not there, damaged, or paints something else.
            ServiceError: its output is not finite, or the registry cannot be reached.
        """
        bundle = load_bundle(self.settings.model_name, version)
        bundle.pipeline.to(self._device)
        _own(bundle.pipeline)
        if bundle.preview is not None:
            _require_preview(preview_error(bundle.pipeline, bundle.recipe, bundle.preview), self.settings)

        def on_step(images: int, seconds: float) -> None:
            self._on_step(version, images, seconds)

        return Generator(bundle, self.settings, on_step)


def _spread(seed: int) -> float:
    """A number in [0, 1) that a seed always has, however seeds are chosen."""
    return int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:8], "big") / 2**64


def _own(pipeline: MMFacePipeline) -> None:
    """Copies the weights: they may be mapped from files, and what becomes of those must not reach what serves."""
    if pipeline.bf16:
        keep_in_bf16(pipeline.transformer)
    for module in pipeline.components.values():
        if isinstance(module, nn.Module):
            for tensor in itertools.chain(module.parameters(), module.buffers()):
                tensor.data = tensor.data.clone()


def _require_preview(error: float, settings: Serve) -> None:
    limit = settings.max_preview_error
    if not error <= limit:
        message = f"it paints its registered preview with a mean error of {error:.1f} of 255, {limit:g} at most"
        remedy = "register it again, or raise serve.max_preview_error"
        raise RegistryError(f"{message}; {remedy}", field="serve.max_preview_error")
