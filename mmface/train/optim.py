"""The optimizer and its learning rate, a pure function of the step (§5)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from mmface.config import Phase, Train


def learning_rate(step: int, phase: Phase, steps: int) -> float:
    """Linear warm-up, then a cosine that reaches ``final_learning_rate`` exactly at the last step.

    Args:
        step: 0 … steps - 1.
        phase: peak, floor and warm-up. The warm-up takes half of the steps at most, so that a short trial of a
            recipe still reaches its peak and decays.
        steps: of the whole phase.
    """
    peak, floor = phase.learning_rate, phase.final_learning_rate
    warmup = min(phase.warmup_steps, steps // 2)
    if step < warmup:
        return peak * (step + 1) / warmup
    if step >= steps - 1:
        return floor
    progress = (step - warmup) / (steps - 1 - warmup)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(parameters: Iterable[nn.Parameter], train: Train) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters, in one fused kernel or with 8-bit states. The rate is set every step."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if train.optimizer == "adamw8bit":
        import bitsandbytes

        optimizer: torch.optim.Optimizer = bitsandbytes.optim.adamw.AdamW8bit(  # type: ignore[no-untyped-call]
            trainable, lr=0.0, betas=train.betas, weight_decay=train.weight_decay
        )
        return optimizer
    return torch.optim.AdamW(trainable, lr=0.0, betas=train.betas, weight_decay=train.weight_decay, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate
