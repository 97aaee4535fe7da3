"""Keeps a run's checkpoints while it trains: the loop waits for a copy in memory, a thread writes it."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType

from mmface.errors import MMFaceError, TrainingError
from mmface.train.checkpoints.run import Checkpoints, Found
from mmface.train.checkpoints.state import Snapshot, TrainState, take_snapshot
from mmface.train.parallel.ranks import from_first, together
from mmface.train.parallel.world import World

log = logging.getLogger(__name__)


class Keeper:
    """Writes checkpoints in the background, one at a time, on rank 0; a context that ends when all are written.

    What goes wrong in the thread is raised on every rank at the next checkpoint, or when the context ends.

    Args:
        checkpoints: where they go.
        world: the ranks; each calls every method.
        safe: step of the checkpoint that the run goes on from.
    """

    def __init__(self, checkpoints: Checkpoints, world: World, safe: int | None = None) -> None:
        self.checkpoints, self.world, self._safe = checkpoints, world, safe
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._pending: Future[None] | None = None

    @property
    def safe(self) -> int | None:
        """Step of the newest checkpoint that was written whole, once the pending one is through; on rank 0."""
        if self._pending is not None:
            wait([self._pending])
        return self._safe

    def save(self, state: TrainState) -> None:
        """Copies the state and lets it be written; waits for the checkpoint before this one.

        Raises:
            TrainingError: the one before could not be written.
        """
        together(self.world, self._wait)
        snapshot = take_snapshot(state)
        if self.world.rank == 0:
            self._pending = self._thread.submit(self._write, snapshot)

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if error is None:
                together(self.world, self._wait)
            else:
                self._wait_in_vain()
        finally:
            self._thread.shutdown()

    def _write(self, snapshot: Snapshot) -> None:
        try:
            self.checkpoints.write(snapshot)
            self._safe = snapshot.step
            self.checkpoints.prune()
        except MMFaceError as error:
            safe = "there is none before it" if self._safe is None else f"that of step {self._safe} is safe"
            message = f"keeping the checkpoint of step {snapshot.step} failed ({error.message}); {safe}"
            raise TrainingError(f"{message}: run again to go on", field=error.field) from error

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _wait_in_vain(self) -> None:
        # Another error is on its way; the last checkpoint is worth having all the same.
        try:
            self._wait()
        except TrainingError as error:
            log.error("%s", error)


def resume(checkpoints: Checkpoints, world: World, folder: Path) -> Found | None:
    """Downloads the checkpoint to go on from into ``folder``, the same on every rank; None when there is none.

    Raises:
        TrainingError: all checkpoints are damaged.
        DatasetError: the one that rank 0 chose is damaged where another rank reads it.
    """
    found = from_first(world, lambda: checkpoints.newest(folder))
    if found is not None:
        together(world, lambda: checkpoints.fetch(found.record, folder) if world.rank else None)
    return found
