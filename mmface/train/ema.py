"""Exponential moving average (EMA) of the weights, in fp32. It is the model that is evaluated, published and served."""

from __future__ import annotations

import copy

import torch
from torch import nn

from mmface.model import MMFaceDiT
from mmface.train.parallel.shards import local


class EMA:
    """A second transformer whose weights are the average of the weights in training.

    Both transformers may be moved, cast or sharded later; then each rank averages its own shards.

    Args:
        model: the transformer in training; the average starts from its weights.
        decay: upper bound of the ramp (1 + step) / (10 + step), which lets the average forget its start.
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
            if source.requires_grad:  # frozen weights never change
                # One weight at a time, so that bf16 weights never need a full fp32 copy.
                local(target).lerp_(local(source).float(), weight)
