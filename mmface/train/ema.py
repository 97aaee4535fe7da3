"""Exponential moving average of the weights, in fp32; what is evaluated, published and served."""

from __future__ import annotations

import copy

import torch
from torch import nn

from mmface.model import MMFaceDiT
from mmface.train.parallel.shards import local


class EMA:
    """A second transformer whose weights follow those in training.

    Both may be moved, cast or sharded later, each rank then averaging its shards.

    Args:
        model: its weights are the start.
        decay: the bound that the ramp (1 + step) / (10 + step) approaches, so that the average forgets the start.
    """

    def __init__(self, model: MMFaceDiT, decay: float) -> None:
        self.module: MMFaceDiT = copy.deepcopy(model)
        nn.Module.float(self.module)
        self.module.eval().requires_grad_(False)
        self.decay = decay
        self._model = model

    def decay_at(self, step: int) -> float:
        """The decay applied after optimizer step ``step`` (from 0)."""
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """ema ← decay · ema + (1 - decay) · weights."""
        weight = 1 - self.decay_at(step)
        for source, target in zip(self._model.parameters(), self.module.parameters(), strict=True):
            if source.requires_grad:  # frozen weights take no part in the result and never change
                # One at a time: of bf16 weights no second fp32 copy is ever whole.
                local(target).lerp_(local(source).float(), weight)
