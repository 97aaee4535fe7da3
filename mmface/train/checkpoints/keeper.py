"""Writes a run's checkpoints in a background thread; training waits only for a copy in memory."""

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
    """Writes checkpoints one at a time in a background thread of rank 0.

    Use it as a context; leaving the context waits until all checkpoints are written. Errors of the thread are raised on
    every rank, at the next checkpoint or when the context ends.

    Args:
        checkpoints: where to write.
        world: the ranks; every rank calls every method.
        safe: step of the checkpoint that the run resumed from.
    """

    def __init__(self, checkpoints: Checkpoints, world: World, safe: int | None = None) -> None:
        self.checkpoints, self.world, self._safe = checkpoints, world, safe
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._pending: Future[None] | None = None

    @property
    def safe(self) -> int | None:
        """Step of the newest complete checkpoint, on rank 0. Waits for the checkpoint that is being written."""
        if self._pending is not None:
            wait([self._pending])
        return self._safe

    def save(self, state: TrainState) -> None:
        """Copies the state and starts to write it, after the previous checkpoint has been written.

        Raises:
            TrainingError: the previous checkpoint could not be written.
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
                self._wait_and_log()
        finally:
            self._thread.shutdown()

    def _write(self, snapshot: Snapshot) -> None:
        try:
            self.checkpoints.write(snapshot)
            self._safe = snapshot.step
            self.checkpoints.prune()
        except MMFaceError as error:
            safe = "none" if self._safe is None else f"step {self._safe}"
            message = (
                f"the checkpoint of step {snapshot.step} could not be written ({error.message}); "
                f"newest complete checkpoint: {safe}; fix the cause and run again to resume"
            )
            raise TrainingError(message, field=error.field) from error

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _wait_and_log(self) -> None:
        # Training already failed with another error, which must be the one raised; still finish the last checkpoint.
        try:
            self._wait()
        except TrainingError as error:
            log.error("%s", error)


def resume(checkpoints: Checkpoints, world: World, folder: Path) -> Found | None:
    """Downloads the checkpoint to resume from into ``folder``, the same on every rank; None if there is none.

    Raises:
        TrainingError: all checkpoints are damaged.
        DatasetError: another rank cannot read the checkpoint that rank 0 chose without damage.
    """
    found = from_first(world, lambda: checkpoints.newest(folder))
    if found is not None:
        together(world, lambda: checkpoints.fetch(found.record, folder) if world.rank else None)
    return found
