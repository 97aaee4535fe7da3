"""The training loop of all zoo networks: AdamW, warm-up, cosine decay to zero, clipped gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Plan:
    """Number of steps and settings of the optimizer."""

    steps: int
    rate: float
    warm: int = 40
    weight_decay: float = 0.01
    beta2: float = 0.999

    def at(self, step: int) -> float:
        """The learning rate of a step."""
        return self.rate * min(1.0, (step + 1) / self.warm) * (0.5 + 0.5 * math.cos(math.pi * step / self.steps))


def fit(name: str, model: nn.Module, loss: Callable[[int], Tensor], plan: Plan) -> None:
    """Minimises ``loss(step)`` over the parameters of ``model``, in place; prints the mean loss every 50 steps."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=plan.rate, betas=(0.9, plan.beta2), weight_decay=plan.weight_decay
    )
    recent = 0.0
    for step in range(plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.at(step)
        value = loss(step)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent += value.item()
        if (step + 1) % 50 == 0:
            print(f"{name} step {step + 1} of {plan.steps}: mean loss {recent / 50:.3f}", flush=True)
            recent = 0.0
