"""Exponential moving average of the weights, in fp32; what is evaluated, published and served."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from mmface.model import MMFaceDiT


class EMA:
    """A second transformer whose weights follow those in training.

    Args:
        model: its weights are the start.
        decay: the bound that the ramp (1 + step) / (10 + step) approaches, so that the average forgets the start.
    """

    def __init__(self, model: MMFaceDiT, decay: float) -> None:
        self.module: MMFaceDiT = copy.deepcopy(model)
        nn.Module.float(self.module)
        self.module.eval().requires_grad_(False)
        self.decay = decay
        # Frozen weights take no part in the result and never change.
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        self._sources = [model.get_parameter(name) for name in names]
        self._targets = [self.module.get_parameter(name) for name in names]

    def decay_at(self, step: int) -> float:
        """The decay applied after optimizer step ``step`` (from 0)."""
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """ema ← decay · ema + (1 - decay) · weights."""
        sources = [source.detach().float() for source in self._sources]
        torch._foreach_lerp_(list[Tensor](self._targets), sources, 1 - self.decay_at(step))
