"""How training is watched."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mmface.config.section import PositiveInt, Section


class Watch(Section):
    """What is measured, painted and refused while a phase trains; nothing of it changes what is learnt.

    Attributes:
        held_out_rows: rows of the split ``test``, the first by id, whose loss is measured; 0 measures none.
        held_out_every: steps between two measurements; null measures at each checkpoint. The last step is always
            measured.
        preview_every: steps between two sheets of painted pictures; 0 paints none. The last step is always painted.
        preview_rows: how many of the held-out rows a sheet shows, each as mask and as sketch.
        max_loss_ratio: training stops at a step whose loss is on average more than this many times what its samples'
            times have usually cost in the last 100 steps (:mod:`mmface.train.watch.guard`); null never does.
    """

    held_out_rows: Annotated[int, Field(ge=0)] = 64
    held_out_every: PositiveInt | None = None
    preview_every: Annotated[int, Field(ge=0)] = 0
    preview_rows: PositiveInt = 4
    max_loss_ratio: Annotated[float, Field(gt=1)] | None = 10.0
