"""Forward and backward pass of one optimizer step, with clipping and the loss of every sample in the global batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from mmface.config import Train
from mmface.networks.precision import computes_in_bf16
from mmface.objectives import Objective
from mmface.train.parallel.shards import whole
from mmface.train.parallel.world import World
from mmface.train.rows.batches import Batch


@dataclass(frozen=True)
class GlobalLosses:
    """Loss of every slot of the global batch, and the gradient's norm; equal on every rank.

    Attributes:
        loss: [batch_size] fp32.
        modality: [batch_size] int64.
        octile: [batch_size] int64, the eighth (0 … 7, of equal probability) that the sample's time was drawn from.
        grad_norm: norm of the full gradient before clipping.
    """

    loss: Tensor
    modality: Tensor
    octile: Tensor
    grad_norm: float

    @property
    def finite(self) -> bool:
        """Whether every loss and the gradient are finite."""
        return bool(np.isfinite(self.grad_norm)) and bool(self.loss.isfinite().all())

    @property
    def bad_slots(self) -> list[int]:
        """Slots whose loss is not finite; all slots if only the gradient is not finite."""
        found = (~self.loss.isfinite()).nonzero().flatten().tolist()
        return found or list(range(len(self.loss)))


def backward(
    transformer: nn.Module, objective: Objective, batches: Iterable[Batch], batch_size: int, train: Train, world: World
) -> GlobalLosses:
    """Computes the clipped gradient of the global batch's mean loss and leaves it in the parameters.

    Does not call the optimizer.

    Args:
        transformer: the model as returned by :func:`mmface.train.placement.wrap`.
        batches: this rank's micro-batches.
        batch_size: number of slots in the global batch.
    """
    batches = list(batches)
    seen = torch.zeros(batch_size, 3, dtype=torch.float64, device=world.device)
    for number, batch in enumerate(batches, 1):
        batch = batch.to(world.device)
        with _synchronised(transformer, number == len(batches)), _precision(train, world):
            t = objective.timesteps(batch.uniform)
            loss = objective(transformer, batch.latents, batch.noise, t, batch.conditioning).loss
            # DDP and FSDP average over ranks; the factor gives each sample the weight 1 / batch_size on any rank.
            (loss.sum() * (world.size / batch_size)).backward()  # type: ignore[no-untyped-call]
        octile = (batch.uniform * 8).long()
        seen[batch.slots.to(world.device)] = torch.stack(
            [loss.detach().double(), batch.conditioning.modality.double(), octile.double()], dim=1
        )
    grad_norm = _clip(transformer, train.gradient_clip)
    loss, modality, octile = world.sum(seen).cpu().unbind(1)
    return GlobalLosses(loss.float(), modality.long(), octile.long(), grad_norm)


def _synchronised(transformer: nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
    # Gradients are exchanged once per step, with the last micro-batch.
    if isinstance(transformer, FSDPModule):
        transformer.set_requires_gradient_sync(last)
    if isinstance(transformer, DistributedDataParallel) and not last:
        return transformer.no_sync()
    return contextlib.nullcontext()


def _clip(transformer: nn.Module, limit: float) -> float:
    parameters = [parameter for parameter in transformer.parameters() if parameter.grad is not None]
    # In fp32 for any dtype of the gradients. Norms of shards are partial sums over ranks until `whole` combines them.
    norms = [
        torch.linalg.vector_norm(parameter.grad, dtype=torch.float32)
        for parameter in parameters
        if parameter.grad is not None
    ]
    norm = whole(torch.linalg.vector_norm(torch.stack(norms)))
    nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return float(norm)


def _precision(train: Train, world: World) -> torch.autocast:
    return torch.autocast(world.device.type, torch.bfloat16, enabled=computes_in_bf16(train.precision, world.device))
