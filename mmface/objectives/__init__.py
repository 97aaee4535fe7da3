"""What the transformer learns to predict (§5). An objective owns its time convention; ``make_objective`` picks one.

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
    """Builds an objective from a recipe's words.

    Args:
        name: ``"flow"`` or ``"ddpm"``.
        timestep_sampling: density of the flow's time; DDPM draws its integer steps uniformly.
        min_snr_gamma: DDPM's Min-SNR clamp, or ``None`` for the plain loss; the flow has no weight.

    Raises:
        RecipeError: unknown name or density.
    """
    if name == "flow":
        return RectifiedFlow(timestep_sampling)
    if name == "ddpm":
        return DDPM(min_snr_gamma)
    raise RecipeError(f"unknown objective {name!r}; known: flow, ddpm", field="objective.name")


__all__ = ["DDPM", "Objective", "ObjectiveName", "RectifiedFlow", "SampleLoss", "make_objective"]
