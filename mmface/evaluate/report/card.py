"""The model card of a bundle: what it was made from, what it measures, for whom it works how well (§8)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mmface.config import Recipe
from mmface.evaluate.deciding.summary import Gap
from mmface.evaluate.figures import Figure
from mmface.evaluate.leaks import Leak

GROUPED = ("mask/miou", "mask/hair_colour_accuracy", "mask/clip_score")  # the figures given by group
MEMORISED = "mask/memorised"


@dataclass(frozen=True)
class Card:
    """The content of a model card.

    Attributes:
        lineage: from :func:`mmface.plan.lineage`.
        gaps: figures by group, from :func:`mmface.evaluate.deciding.summary.by_group`.
        parameters: number of trained weights.
        steps, images: optimizer steps and images of training, over all phases.
        warnings: why figures may be too good.
    """

    recipe: Recipe
    lineage: Mapping[str, Any]
    figures: Sequence[Figure]
    gaps: Sequence[Gap]
    leaks: Sequence[Leak]
    parameters: int
    steps: int
    images: int
    warnings: Sequence[str] = ()


def render_card(card: Card) -> str:
    """The Markdown of ``README.md``; the same content gives the same bytes."""
    environment = Environment(
        loader=PackageLoader("mmface.evaluate.report", "."), undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["figure"] = _figure
    sources = card.lineage.get("images", {}).get("sources", [])
    memorised = next((one for one in card.figures if one.name == MEMORISED), None)
    return environment.get_template("card.md").render(
        card=card,
        sources=sources,
        licences=sorted({one["licence"] for one in sources if one.get("licence")}),
        stages=[
            (name, facts) for name, facts in card.lineage.items() if isinstance(facts, dict) and "dataset" in facts
        ],
        known=[one for one in card.figures if not one.unavailable],
        unknown=[one for one in card.figures if one.unavailable],
        gaps=[gap for gap in card.gaps if math.isfinite(gap.gap)],
        memorised=memorised if memorised and not memorised.unavailable else None,
        size=card.recipe.phases[-1].resolution,
        parts={role: name for role, name in card.recipe.components.model_dump().items() if name},
    )


def _figure(value: float | None) -> str:
    return "—" if value is None else f"{value:.4g}"
