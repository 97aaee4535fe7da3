"""The guidance of a picture: how strong, and in which part of the steps.

:mod:`mmface.sampling.trajectory` applies it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from mmface.errors import InputError

PROMPT_SCALES, DRAWING_SCALES = (1.0, 2.0, 4.0, 7.0), (1.0, 1.5, 2.0, 3.0)
"""The scales that are compared in a picture for the report."""


@dataclass(frozen=True)
class Guidance:
    """How far predictions move away from those without prompt and without drawing.

    Attributes:
        guidance_scale: of the prompt; 1: none, and the prediction without prompt is not computed.
        drawing_guidance_scale: of the drawing, likewise.
        guidance_start, guidance_end: the part of the network evaluations that are guided, as shares of their number.
    """

    guidance_scale: float = 1.0
    drawing_guidance_scale: float = 1.0
    guidance_start: float = 0.0
    guidance_end: float = 1.0

    def __post_init__(self) -> None:
        for name in ("guidance_scale", "drawing_guidance_scale"):
            if not math.isfinite(getattr(self, name)) or getattr(self, name) < 0:
                raise InputError(f"{getattr(self, name)!r} is not a finite number of at least 0", field=name)
        for name in ("guidance_start", "guidance_end"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{getattr(self, name)!r} is not a share of the steps, from 0 to 1", field=name)
        if self.guidance_start > self.guidance_end:
            message = f"{self.guidance_start} is after guidance_end {self.guidance_end}; give a smaller one"
            raise InputError(message, field="guidance_start")

    @classmethod
    def of(cls, settings: Any, given: Any = None) -> Guidance:
        """The guidance that ``settings`` has as attributes, with those of ``given`` that are there and not None."""
        names = [one.name for one in fields(cls)]
        asked = {name: value for name in names if (value := getattr(given, name, None)) is not None}
        return cls(**{name: getattr(settings, name) for name in names} | asked)

    @property
    def rows(self) -> int:
        """Rows of a guided network evaluation for each image."""
        return 1 + (self.guidance_scale != 1) + (self.drawing_guidance_scale != 1)

    @property
    def mean_rows(self) -> float:
        """Rows for each image, averaged over all evaluations."""
        return 1 + (self.rows - 1) * (self.guidance_end - self.guidance_start)

    def applies(self, done: int, steps: int) -> bool:
        """Whether the evaluation after ``done`` of ``steps`` is guided."""
        return self.rows > 1 and self.guidance_start <= done / steps < self.guidance_end
