"""The optimizer and its learning rate, a pure function of the step (§5)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from mmface.config import Phase, Train
from mmface.errors import RecipeError
from mmface.train.parallel.shards import local

QUANTISED_BLOCK = 256
"""Elements that share a scale in bitsandbytes' 8-bit moments."""


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


def is_quantised(parameter: nn.Parameter) -> bool:
    """Whether 8-bit AdamW quantises its moments: those of matrices with 4096 weights or more.

    Biases are too small to be worth it, and shards of theirs would seldom be whole blocks.
    """
    return parameter.ndim > 1 and parameter.numel() >= 4096


def make_optimizer(parameters: Iterable[nn.Parameter], train: Train) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters, in one fused kernel or with 8-bit states. The rate is set every step.

    Moments have the parameters' dtype (``adamw``), or 8 bits with fp32 scales. Of sharded parameters this rank's
    shards are updated, as plain tensors: element by element that is the same, and bitsandbytes knows no others.

    Raises:
        RecipeError: paged moments without a GPU.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    shards = [nn.Parameter(local(whole)) if isinstance(whole, DTensor) else whole for whole in trainable]
    optimizer: torch.optim.Optimizer
    if train.optimizer == "adamw":
        optimizer = torch.optim.AdamW(shards, lr=0.0, betas=train.betas, weight_decay=train.weight_decay, fused=True)
    else:
        from mmface.train.adam8bit import AdamW8bit

        paged = train.optimizer == "adamw8bit-paged"
        if paged and any(shard.device.type == "cpu" for shard in shards):
            raise RecipeError("adamw8bit-paged pages out of a GPU; take adamw8bit on the CPU", field="train.optimizer")
        quantised = [is_quantised(parameter) for parameter in trainable]
        optimizer = AdamW8bit(shards, quantised, betas=train.betas, weight_decay=train.weight_decay, paged=paged)
    _hand_over_gradients(optimizer, trainable, shards)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def _hand_over_gradients(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], shards: Sequence[nn.Parameter]
) -> None:
    pairs = [(parameter, shard) for parameter, shard in zip(parameters, shards, strict=True) if parameter is not shard]

    def hand_over(*_: object) -> None:
        for parameter, shard in pairs:
            shard.grad = None if parameter.grad is None else local(parameter.grad)
            parameter.grad = None

    if pairs:
        optimizer.register_step_pre_hook(hand_over)
