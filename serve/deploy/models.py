"""The versions that a replica serves: it follows the registry's aliases while it answers (§9).

When an alias moves, the new version is loaded beside the old one and must paint its registered preview; then new
requests go to it and the old one finishes what it has. A version that fails, for whatever reason, is refused: the old
one stays, and a replica that has none takes the newest former champion that loads. What may be mended by waiting
(memory, disk, network) is tried again, less and less often.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import math
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from torch import nn

from mmface.bundles.bundle import Bundle, read_bundle
from mmface.bundles.moves import read_past
from mmface.bundles.reference import preview_error
from mmface.bundles.registry import fetched_bundle, get_alias
from mmface.config import Serve
from mmface.errors import MMFaceError, RegistryError, ServiceError
from mmface.networks.precision import keep_in_bf16
from mmface.pipeline import MMFacePipeline
from serve.engine.footprint import ran_out_of_memory
from serve.engine.generator import Generator
from serve.engine.threads import in_own_thread
from serve.http.job import Job

log = logging.getLogger(__name__)

LONGEST_WAIT_S = 300.0  # between two tries to load a version

OnSwap = Callable[[str, str], None]
"""Told a version, and "serving", "refused" or "retired"."""


@dataclass(frozen=True)
class Failure:
    """Why a version did not load. Not the exception: its frames would keep the weights.

    Attributes:
        transient: another try may succeed.
    """

    why: str
    transient: bool


@dataclass(frozen=True)
class Refusal:
    """A version that is not served: why, after how many tries, and the earliest time of the next one."""

    why: str
    tries: int
    again_at: float


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
        self._wanted: dict[str, str | None] = {}  # by alias: the version that it points to
        self._refusals: dict[str, Refusal] = {}  # by version
        self._away: str | None = None  # why the registry could not be asked
        self._aliases = [settings.alias, *([settings.canary] if settings.canary else [])]

    def champion(self) -> Generator:
        """What answers by default.

        Raises:
            ServiceError: no version could be loaded yet; says why.
        """
        alias = self.settings.alias
        if alias in self._serving:
            return self._serving[alias]
        message = f"{self.settings.model_name} has no {alias} yet: run mmface retrain"
        if self.refused is not None:
            message = f"version {self.refused} cannot be served: {self._refusals[self.refused].why}"
        elif self._away is not None:
            message = self._away
        raise ServiceError(message, field="serve.alias")

    @property
    def refused(self) -> str | None:
        """The version that should answer by default and cannot be loaded."""
        version = self._wanted.get(self.settings.alias)
        return version if version in self._refusals else None

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
        try:
            for alias in self._aliases:
                await self._follow(alias, await asyncio.to_thread(get_alias, self.settings.model_name, alias))
            if self.refused is not None and self.settings.alias not in self._serving:
                await self._fall_back()
            self._away = None
        except MMFaceError as error:
            log.warning("serve: %s", error.message)
            self._away = error.message

    async def _follow(self, alias: str, version: str | None) -> None:
        before, self._wanted[alias] = self._wanted.get(alias), version
        if before is not None and before != version:
            self._refusals.pop(before, None)  # if it comes back, it has been mended
        serving = self._serving.get(alias)
        if version is None:
            if alias != self.settings.alias:
                self._replace(alias, None)  # the canary's trial has ended; a deleted champion goes on
        elif serving is None or serving.info.version != version:
            fresh = await self._try(version)
            if fresh is not None:
                log.info("serve: version %s is %s now", version, alias)
                self._replace(alias, fresh)

    async def _fall_back(self) -> None:
        alias = self.settings.alias
        past = await asyncio.to_thread(read_past, self.settings.model_name, alias)
        for version in past.former:
            fresh = await self._try(version)
            if fresh is not None:
                log.warning("serve: version %s, %s before, answers instead of version %s", version, alias, self.refused)
                self._replace(alias, fresh)
                return

    async def _try(self, version: str) -> Generator | None:
        """Loads a version unless it was refused for good or not long ago."""
        before = self._refusals.get(version)
        if before is not None and monotonic() < before.again_at:
            return None
        made = await in_own_thread(lambda: self._load(version))
        if isinstance(made, Generator):
            self._refusals.pop(version, None)
            return made
        tries = before.tries + 1 if before is not None else 1
        wait = min(self.settings.follow_s * 2.0 ** min(tries, 20), LONGEST_WAIT_S) if made.transient else math.inf
        self._refusals[version] = Refusal(made.why, tries, monotonic() + wait)
        remedy = f"; tried again in {wait:.0f} s" if made.transient else ""
        log.error("serve: version %s is refused: %s%s", version, made.why, remedy)
        self._on_swap(version, "refused")
        return None

    def _replace(self, alias: str, fresh: Generator | None) -> None:
        """From here on ``fresh`` gets what comes; who answered before finishes what it has."""
        old = self._serving.pop(alias, None)
        if fresh is not None:
            self._serving[alias] = fresh
            self._on_swap(fresh.info.version, "serving")
        if old is not None:
            old.engine.close()
            self._on_swap(old.info.version, "retired")

    def load(self, version: str, on_fetched: Callable[[], None] = lambda: None) -> Generator:
        """A version ready to serve, which has painted its registered preview.

        Args:
            on_fetched: called once its files are here and as registered.

        Raises:
            RegistryError: it is not there, damaged, or paints something else.
            ServiceError: its output is not finite, or the registry cannot be reached.
        """
        with fetched_bundle(self.settings.model_name, version) as folder:
            on_fetched()
            return self._make(read_bundle(folder, version))

    def _load(self, version: str) -> Generator | Failure:
        fetched = threading.Event()
        try:
            return self.load(version, fetched.set)
        except Exception as error:  # noqa: BLE001 - whatever it is, this version cannot be served
            if isinstance(error, MMFaceError):
                return Failure(str(error), _is_transient(error, fetched.is_set()))
            log.error("serve: version %s did not load\n%s", version, "".join(traceback.format_exception(error)))
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            return Failure(why, _is_transient(error, fetched.is_set()))

    def _make(self, bundle: Bundle) -> Generator:
        bundle.pipeline.to(self._device)
        _own(bundle.pipeline)
        if bundle.preview is not None:
            _require_preview(preview_error(bundle.pipeline, bundle.recipe, bundle.preview), self.settings)

        def on_step(images: int, seconds: float) -> None:
            self._on_step(bundle.version, images, seconds)

        return Generator(bundle, self.settings, on_step)


def _is_transient(error: Exception, fetched: bool) -> bool:
    """Whether waiting may help: memory and disk always; until the files are here and as registered, services too."""
    if ran_out_of_memory(error):
        return True
    if not fetched:
        return isinstance(error, ServiceError) or not isinstance(error, MMFaceError)
    return isinstance(error, OSError) and error.errno is not None and not isinstance(error, FileNotFoundError)


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
