"""A replica's part in measuring drift: it exports the latest figures as gauges and, if told to, counts prompts.

The flow ``watch`` compares the counts with the training captions and stores the figures in the home.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic

from mmface.config import Serve
from mmface.data.prompt_counts import PromptCounter, write_counts
from mmface.errors import MMFaceError
from mmface.evaluate.drift import read_measured
from mmface.store import home

log = logging.getLogger(__name__)

EXPORT_S = 60.0

OnDrift = Callable[[str, float, bool], None]
"""Called with ``photographs`` or ``prompts``, their distance, and whether they have drifted."""


class DriftExport:
    """Counts prompts in memory, and reads and writes the home in threads, so that no request waits for the store."""

    def __init__(self, settings: Serve, on_drift: OnDrift) -> None:
        self._model, self._window = settings.model_name, settings.prompt_counts_s
        self._on_drift = on_drift
        self._counter = PromptCounter() if self._window is not None else None
        self._written = monotonic()
        self._shown: set[str] = set()  # kinds that have a figure

    def count(self, prompt: str) -> None:
        """Counts the prompt of a request; does nothing unless ``serve.prompt_counts_s`` is set."""
        if self._counter is not None:
            self._counter.add(prompt)

    async def follow(self) -> None:
        """Exports the figures and writes the counts for ever. A store that does not answer is asked again later."""
        pause = min(EXPORT_S, self._window or EXPORT_S)
        while True:
            try:
                await self.export()
                await self.write()
            except MMFaceError as error:
                log.warning("serve: drift: %s", error.message)
            await asyncio.sleep(pause)

    async def export(self) -> None:
        """Exports the latest figures in the home; zeros for what is gone because the champion has learnt it."""
        found = await asyncio.to_thread(read_measured, home(), self._model)
        latest = {kind: one.drift for kind, one in found.items() if one.drift.distance is not None}
        for kind in self._shown - latest.keys():
            self._on_drift(kind, 0.0, False)
        for kind, drift in latest.items():
            self._on_drift(kind, drift.distance or 0.0, drift.verdict == "drifted")
        self._shown = set(latest)

    async def write(self) -> None:
        """Writes the whole groups of prompts to the home once the time between two files is over."""
        if self._counter is None or self._window is None or monotonic() - self._written < self._window:
            return
        self._written = monotonic()
        counts = self._counter.take()
        if len(counts):
            await asyncio.to_thread(write_counts, home(), self._model, counts)
