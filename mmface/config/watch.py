"""The recipe section about what is measured and shown while training."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mmface.config.section import PositiveInt, Section


class Watch(Section):
    """Section ``watch``: measurements and previews of training, and when it stops by itself."""

    held_out_rows: Annotated[int, Field(ge=0)] = Field(
        default=64,
        description="Held-out rows, the first by id, whose loss is measured on fixed noise at eight times; 0 measures "
        "none.",
    )
    held_out_every: PositiveInt | None = Field(
        default=None,
        description="Optimizer steps between two measurements of the held-out loss; null: at each checkpoint. The "
        "last step is always measured.",
    )
    preview_every: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Optimizer steps between two previews (sheets of painted held-out rows, in MLflow); 0 paints "
        "none. Otherwise the last step is always painted. Needs `held_out_rows`.",
    )
    preview_rows: PositiveInt = Field(
        default=4, description="Held-out rows on a preview, each painted from its mask and from its sketch."
    )
    max_loss_ratio: Annotated[float, Field(gt=1)] | None = Field(
        default=10.0,
        description="Training stops before a step whose loss is more than this many times the usual loss at its "
        "times, taken from the last 100 steps; null never stops for that. A loss that is not finite always stops it.",
    )
