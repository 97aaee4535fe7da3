"""The versions that a replica serves: it follows the registry's aliases while it answers (§9).

When an alias moves, the new version is loaded beside the old one and must paint its registered preview. Then it gets
the new requests, and the old version finishes the ones it has. A version that does not load, for any reason, is
refused: the old one stays, and a replica without one takes the newest former champion that loads. Failures that may be
transient (memory, disk, network) are retried at growing intervals.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from mmface.bundles.moves import read_past
from mmface.bundles.registry import get_alias
from mmface.config import Serve
from mmface.errors import MMFaceError, UnhealthyModelError
from serve.canary.observer import hash_fraction
from serve.deploy.loader import Loader, OnVersionStep
from serve.engine.generator import Generator
from serve.engine.threads import in_own_thread
from serve.http.job import Job

log = logging.getLogger(__name__)

LONGEST_WAIT_S = 300.0  # between two attempts to load a version

OnSwap = Callable[[str, str], None]
"""Called with a version and what became of it: "serving", "refused" or "retired"."""


@dataclass(frozen=True)
class Refusal:
    """A version that is not served: why, after how many attempts, and the earliest time of the next one."""

    why: str
    attempts: int
    retry_at: float


class Models:
    """The generator of each alias.

    Args:
        settings: the model's name, its aliases, and how often to read them.
        on_step: see :data:`OnVersionStep`.
        on_swap: see :data:`OnSwap`.
        device: where transformers run.
    """

    def __init__(self, settings: Serve, on_step: OnVersionStep, on_swap: OnSwap, device: str) -> None:
        self.settings = settings
        self._on_swap = on_swap
        self._loader = Loader(settings, on_step, device)
        self._serving: dict[str, Generator] = {}  # by alias
        self._wanted: dict[str, str | None] = {}  # by alias: the version that it points to
        self._refusals: dict[str, Refusal] = {}  # by version
        self._registry_error: str | None = None  # why the registry could not be read
        self._aliases = [one for one in (settings.alias, settings.canary.alias) if one]

    def champion(self) -> Generator:
        """The generator that answers by default.

        Raises:
            UnhealthyModelError: no version has been loaded yet; says why.
        """
        alias = self.settings.alias
        if alias in self._serving:
            return self._serving[alias]
        message = f"{self.settings.model_name} has no {alias} yet: run mmface retrain"
        if self.refused is not None:
            message = f"version {self.refused} cannot be served: {self._refusals[self.refused].why}"
        elif self._registry_error is not None:
            message = self._registry_error
        raise UnhealthyModelError(message, field="serve.alias")

    @property
    def refused(self) -> str | None:
        """The version that should answer by default but cannot be loaded."""
        version = self._wanted.get(self.settings.alias)
        return version if version in self._refusals else None

    def choose(self, job: Job) -> Generator:
        """The generator for a job: of the version it requires, else the canary for a share of seeds, else the champion.

        The canary always gets the same seeds.
        """
        for generator in self.serving():
            if generator.info.version == job.version:
                return generator
        canary = self._serving.get(self.settings.canary.alias or "")
        if canary is not None and hash_fraction(job.seeds[0]) < self.settings.canary.share:
            return canary
        return self.champion()

    def serving(self) -> list[Generator]:
        """The generators of all served versions, the champion first."""
        return [self._serving[alias] for alias in self._aliases if alias in self._serving]

    async def follow(self) -> None:
        """Updates from the aliases for ever, every ``settings.follow_s`` seconds."""
        while True:
            await asyncio.sleep(self.settings.follow_s)
            await self.look()

    async def look(self) -> None:
        """Reads the aliases and loads the versions they point to. A registry that cannot be reached changes nothing."""
        try:
            for alias in self._aliases:
                await self._follow(alias, await asyncio.to_thread(get_alias, self.settings.model_name, alias))
            if self.refused is not None and self.settings.alias not in self._serving:
                await self._fall_back()
            self._registry_error = None
        except MMFaceError as error:
            log.warning("serve: the aliases could not be read: %s", error.message)
            self._registry_error = error.message

    async def _follow(self, alias: str, version: str | None) -> None:
        before, self._wanted[alias] = self._wanted.get(alias), version
        if before is not None and before != version:
            self._refusals.pop(before, None)  # if the alias returns to it, the version may have been repaired
        serving = self._serving.get(alias)
        if alias != self.settings.alias and version == self._wanted.get(self.settings.alias):
            version = None  # the canary was promoted; it answers as champion
        if version is None:
            if alias != self.settings.alias:
                self._replace(alias, None)  # the canary is over; without an alias the champion keeps serving
        elif serving is None or serving.info.version != version:
            fresh = self._take_canary(alias, version) or await self._load(version)
            if fresh is not None:
                log.info("serve: version %s serves as %s", version, alias)
                self._replace(alias, fresh)

    def _take_canary(self, alias: str, version: str) -> Generator | None:
        """The canary's generator if ``alias`` is the champion's and now points to its version: it needs no loading."""
        canary = self.settings.canary.alias or ""
        if alias != self.settings.alias or canary not in self._serving:
            return None
        return self._serving.pop(canary) if self._serving[canary].info.version == version else None

    async def _fall_back(self) -> None:
        """Serves the newest former champion that loads."""
        alias = self.settings.alias
        past = await asyncio.to_thread(read_past, self.settings.model_name, alias)
        for version in past.former:
            fresh = await self._load(version)
            if fresh is not None:
                log.warning(
                    "serve: version %s, a former %s, serves instead of version %s", version, alias, self.refused
                )
                self._replace(alias, fresh)
                return

    async def _load(self, version: str) -> Generator | None:
        """Loads a version, unless it was refused for good or its next retry is not due."""
        before = self._refusals.get(version)
        if before is not None and monotonic() < before.retry_at:
            return None
        loaded = await in_own_thread(lambda: self._loader.attempt(version))
        if isinstance(loaded, Generator):
            self._refusals.pop(version, None)
            return loaded
        attempts = before.attempts + 1 if before is not None else 1
        wait = min(self.settings.follow_s * 2.0 ** min(attempts, 20), LONGEST_WAIT_S) if loaded.transient else math.inf
        self._refusals[version] = Refusal(loaded.why, attempts, monotonic() + wait)
        retry = f"; retry in {wait:.0f} s" if loaded.transient else ""
        log.error("serve: version %s is refused: %s%s", version, loaded.why, retry)
        self._on_swap(version, "refused")
        return None

    def _replace(self, alias: str, fresh: Generator | None) -> None:
        """Gives new requests to ``fresh``; the old generator finishes the requests that it has."""
        old = self._serving.pop(alias, None)
        if fresh is not None:
            self._serving[alias] = fresh
            self._on_swap(fresh.info.version, "serving")
        if old is not None:
            old.engine.close()
            self._on_swap(old.info.version, "retired")
