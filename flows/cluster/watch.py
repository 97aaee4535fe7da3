"""Watches a job on a cluster: reads its log line by line and its status until it ends."""

from __future__ import annotations

import asyncio
import logging
import queue
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from flows.cluster.client import Cluster, State
from mmface.errors import SAID, ServiceError

log = logging.getLogger(__name__)

FIRST_POLL, LONGEST_POLL = 0.3, 2.0
RECONNECT_SECONDS = 2.0

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Tail:
    """Follows the log of a running job. A broken stream is opened again, and text that it repeats is dropped."""

    def __init__(self, cluster: Cluster, submission_id: str) -> None:
        self.cluster, self.submission_id = cluster, submission_id
        self.seen = 0  # characters of the log
        self._pieces: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._partial = ""
        self._ended = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._follow()), daemon=True).start()

    def lines(self) -> list[str]:
        """The complete lines that arrived since the last call."""
        while not self._pieces.empty():
            self._partial += self._pieces.get()
        *whole, self._partial = self._partial.split("\n")
        return [_COLOUR.sub("", line) for line in whole]

    def finish(self) -> list[str]:
        """Stops listening; returns the remaining lines of a job that has ended."""
        self._ended.set()
        try:
            self._add(self.cluster.logs(self.submission_id), 0)
        except ServiceError as error:
            log.warning("the last lines of the log are missing: %s", error)
        return [*self.lines(), *([self._partial] if self._partial else [])]

    def close(self) -> None:
        """Stops listening."""
        self._ended.set()

    def _add(self, text: str, start: int) -> None:
        """Adds ``text``, which begins at character ``start`` of the log, without the part that is known already."""
        new = text[max(self.seen - start, 0) :]
        if new:
            self.seen += len(new)
            self._pieces.put(new)

    async def _follow(self) -> None:
        import aiohttp

        while not self._ended.is_set():
            place = 0
            try:
                async for text in self.cluster.client.tail_job_logs(self.submission_id):
                    if self._ended.is_set():
                        return
                    self._add(text, place)
                    place += len(text)
            except (OSError, RuntimeError, aiohttp.ClientError) as error:
                log.debug("%s: the stream of the log broke: %s", self.submission_id, error)
            await asyncio.sleep(RECONNECT_SECONDS)


def watch(cluster: Cluster, submission_id: str, check: Callable[[], None], show: Callable[[str], None]) -> State | None:
    """Waits until a job ends and shows its log meanwhile; returns its last state, None if the cluster does not know it.

    The state's message is the error that the entrypoint printed, if it printed one.

    Args:
        check: called regularly; raises to stop the waiting.
        show: called with each line of the log.
    """
    tail, pause = Tail(cluster, submission_id), FIRST_POLL
    reported = ""
    try:
        while True:
            state = cluster.find(submission_id)
            ended = state is not None and state.status.is_terminal()
            for line in tail.finish() if ended else tail.lines():
                show(line)
                reported = line.removeprefix(SAID) if line.startswith(SAID) else reported
            if state is None or ended:
                return replace(state, message=reported or state.message) if state else None
            check()
            time.sleep(pause)
            pause = min(1.3 * pause, LONGEST_POLL)
    finally:
        tail.close()
