"""Figures: measured values with their interval and with what they were measured on (§8)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Better = Literal["higher", "lower", ""]


class Figure(BaseModel):
    """One figure of a system on an evaluation set.

    Attributes:
        name: ``<modality>/<metric>``, such as ``mask/miou``.
        value: None if it is unavailable.
        low: lower limit of the 95 % interval; None without an interval.
        high: upper limit.
        n: number of images.
        better: which direction is better; empty for a figure that only describes.
        extractor: name and hash of the weights of the network that measured it; empty without one.
        resolution: side of the images in pixels.
        preprocessing: what is done with an image before the extractor sees it.
        interval: method of the interval, such as "percentile bootstrap over rows, 2,000 resamples".
        unavailable: why there is no value, and what to do.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    better: Better = ""
    extractor: str = ""
    resolution: int = 0
    preprocessing: str = ""
    interval: str = ""
    unavailable: str = ""
