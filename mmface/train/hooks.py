"""What the caller of a training phase is told: figures, checkpoints, previews."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mmface.train.checkpoints.state import TrainState


@dataclass(frozen=True)
class Hooks:
    """What the caller does with a run's results.

    Attributes:
        on_log: gets each entry of the history; called on rank 0 only.
        on_checkpoint: gets the state after every ``checkpoint_every`` steps and the last; called on every rank, so
            that it may be a barrier.
        on_preview: gets the step and a PNG (:meth:`mmface.train.watch.previews.Previews.sheet`); called on rank 0 only,
            but given on every rank or on none. Without it nothing is painted.
        safe: step of the newest checkpoint that was written whole, asked when the run has to stop. Without it every one
            that ``on_checkpoint`` was given counts.
    """

    on_log: Callable[[dict[str, float]], None]
    on_checkpoint: Callable[[TrainState], None]
    on_preview: Callable[[int, bytes], None] | None = None
    safe: Callable[[], int | None] | None = None
