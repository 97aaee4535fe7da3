"""Callbacks of a training phase: logged figures, checkpoints, previews."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mmface.train.checkpoints.state import TrainState


@dataclass(frozen=True)
class Hooks:
    """The functions that training calls with a run's results.

    Attributes:
        on_log: gets each entry of the history. Called on rank 0 only.
        on_checkpoint: gets the state after every ``checkpoint_every`` steps and after the last step. Called on every
            rank, so it may be a barrier.
        on_preview: gets the step and a PNG (:meth:`mmface.train.watch.previews.Previews.sheet`). Called on rank 0 only,
            but must be given on all ranks or on none. Without it no previews are painted.
        on_guidance: gets a PNG (:meth:`mmface.train.watch.previews.Previews.guidance_sheet`) at the end of the last
            phase, where previews are painted. Otherwise like ``on_preview``.
        safe: returns the step of the newest complete checkpoint, for the error message when training stops. Without
            it, every checkpoint passed to ``on_checkpoint`` counts as complete.
    """

    on_log: Callable[[dict[str, float]], None]
    on_checkpoint: Callable[[TrainState], None]
    on_preview: Callable[[int, bytes], None] | None = None
    on_guidance: Callable[[bytes], None] | None = None
    safe: Callable[[], int | None] | None = None
