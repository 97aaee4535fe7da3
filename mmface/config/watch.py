"""Recipe sections about what is watched: while training, and in what arrives afterwards."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mmface.config.section import PositiveFloat, PositiveInt, Section


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


class Drift(Section):
    """Section ``drift``: how far new photographs and served prompts lie from the champion's training set.

    The distance is the squared maximum mean discrepancy (MMD) with a Gaussian kernel, 0 for equal distributions and at
    most 2. Drift needs both: a permutation test that finds the difference, and a distance that matters.
    """

    rows: Annotated[int, Field(ge=0, le=2000)] = Field(
        default=500,
        description="Most photographs (or groups of prompts) that are drawn at random from each side; 0 measures no "
        "drift.",
    )
    level: Annotated[float, Field(ge=0.9, le=0.999)] = Field(
        default=0.99,
        description="Confidence level of the test: of comparisons without drift, a share of 1 - `level` is called a "
        "difference.",
    )
    min_distance: PositiveFloat = Field(
        default=0.02, description="Smallest distance of photographs that counts as drift, on a scale from 0 to 2."
    )
    min_prompt_distance: PositiveFloat = Field(
        default=0.2,
        description="Smallest distance of groups of prompts that counts as drift, on a scale from 0 to 2. It is larger "
        "than `min_distance`, since people never write quite like captions.",
    )
