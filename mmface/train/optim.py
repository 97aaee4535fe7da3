"""The optimizer, and the learning rate as a pure function of the step (§5)."""

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
"""Number of elements that share one scale in bitsandbytes' 8-bit moments."""


def learning_rate(step: int, phase: Phase, steps: int) -> float:
    """Linear warm-up, then a cosine that reaches ``final_learning_rate`` exactly at the last step.

    Args:
        step: 0 … steps - 1.
        phase: gives peak, floor and warm-up. The warm-up takes at most half of the steps, so that a short trial run
            still reaches the peak and decays.
        steps: number of steps of the phase.
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
    """Whether 8-bit AdamW quantises the moments of ``parameter``: a matrix with 4096 weights or more.

    Biases are too small to save memory, and their shards would rarely consist of complete blocks.
    """
    return parameter.ndim > 1 and parameter.numel() >= 4096


def make_optimizer(parameters: Iterable[nn.Parameter], train: Train) -> torch.optim.Optimizer:
    """AdamW for the trainable parameters: one fused kernel, or 8-bit moments. The learning rate is set every step.

    Moments have the parameters' dtype (``adamw``), or 8 bits with fp32 scales. If parameters are sharded, the optimizer
    updates this rank's shards as plain tensors: AdamW works element by element, so the result is the same, and
    bitsandbytes accepts plain tensors only.

    Raises:
        RecipeError: paged moments on the CPU.
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
            raise RecipeError("adamw8bit-paged needs a GPU; use adamw8bit on the CPU", field="train.optimizer")
        quantised = [is_quantised(parameter) for parameter in trainable]
        optimizer = AdamW8bit(shards, quantised, betas=train.betas, weight_decay=train.weight_decay, paged=paged)
    _hand_over_gradients(optimizer, trainable, shards)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of every parameter group."""
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
