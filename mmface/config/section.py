"""The base class of recipe sections, and number types that many keys share."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]


def _ordered(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError("give [lowest, highest]")
    return limits


Limits = Annotated[tuple[Fraction, Fraction], AfterValidator(_ordered)]


class Section(BaseModel):
    """A frozen section of the recipe that rejects unknown keys.

    Every field has a ``description``: ``mmface recipe explain`` and the reference page of the docs print it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
