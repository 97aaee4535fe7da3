"""Watching a job: its log line by line, its status, and its end."""

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
    """A job's log as it grows. A stream that breaks off is opened again; what it repeats is left out."""

    def __init__(self, cluster: Cluster, submission_id: str) -> None:
        self.cluster, self.submission_id = cluster, submission_id
        self.seen = 0  # characters
        self._pieces: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._rest = ""
        self._over = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._follow()), daemon=True).start()

    def lines(self) -> list[str]:
        """The whole lines that have come since the last call."""
        while not self._pieces.empty():
            self._rest += self._pieces.get()
        *whole, self._rest = self._rest.split("\n")
        return [_COLOUR.sub("", line) for line in whole]

    def finish(self) -> list[str]:
        """The last lines of a job that has ended."""
        self._over.set()
        try:
            self._add(self.cluster.logs(self.submission_id), 0)
        except ServiceError as error:
            log.warning("the end of the log is missing: %s", error)
        return [*self.lines(), *([self._rest] if self._rest else [])]

    def close(self) -> None:
        """Stops listening."""
        self._over.set()

    def _add(self, text: str, start: int) -> None:
        """Takes ``text``, which begins at character ``start`` of the log, once."""
        new = text[max(self.seen - start, 0) :]
        if new:
            self.seen += len(new)
            self._pieces.put(new)

    async def _follow(self) -> None:
        import aiohttp

        while not self._over.is_set():
            place = 0
            try:
                async for text in self.cluster.client.tail_job_logs(self.submission_id):
                    if self._over.is_set():
                        return
                    self._add(text, place)
                    place += len(text)
            except (OSError, RuntimeError, aiohttp.ClientError) as error:
                log.debug("%s: the stream of the log broke off: %s", self.submission_id, error)
            await asyncio.sleep(RECONNECT_SECONDS)


def watch(cluster: Cluster, submission_id: str, check: Callable[[], None], show: Callable[[str], None]) -> State | None:
    """Waits for the end of a job and shows its log meanwhile; None when the cluster no longer knows the job.

    The state's message is what the entrypoint named as its error, if it did.

    Args:
        check: raises when this process should no longer wait.
    """
    tail, pause = Tail(cluster, submission_id), FIRST_POLL
    said = ""
    try:
        while True:
            state = cluster.find(submission_id)
            ended = state is not None and state.status.is_terminal()
            for line in tail.finish() if ended else tail.lines():
                show(line)
                said = line.removeprefix(SAID) if line.startswith(SAID) else said
            if state is None or ended:
                return replace(state, message=said or state.message) if state else None
            check()
            time.sleep(pause)
            pause = min(1.3 * pause, LONGEST_POLL)
    finally:
        tail.close()
