"""Objectives: what the transformer learns to predict, each with its own time convention (§5).

Shapes: B batch, C latent channels, H W latent size.
"""

from __future__ import annotations

from typing import Literal

from mmface.errors import RecipeError
from mmface.objectives.ddpm import DDPM
from mmface.objectives.flow import RectifiedFlow, TimestepSampling
from mmface.objectives.objective import Objective, SampleLoss

ObjectiveName = Literal["flow", "ddpm"]


def make_objective(
    name: ObjectiveName,
    *,
    timestep_sampling: TimestepSampling = "logit_normal",
    min_snr_gamma: float | None = 5.0,
) -> Objective:
    """Builds an objective from the values of a recipe.

    Args:
        name: ``"flow"`` or ``"ddpm"``.
        timestep_sampling: density of the flow's time; not used by DDPM, whose steps are uniform.
        min_snr_gamma: gamma of DDPM's Min-SNR weight, or ``None`` for the unweighted loss; not used by the flow.

    Raises:
        RecipeError: unknown name or density.
    """
    if name == "flow":
        return RectifiedFlow(timestep_sampling)
    if name == "ddpm":
        return DDPM(min_snr_gamma)
    raise RecipeError(f"unknown objective {name!r}; known: flow, ddpm", field="objective.name")


__all__ = ["DDPM", "Objective", "ObjectiveName", "RectifiedFlow", "SampleLoss", "make_objective"]
