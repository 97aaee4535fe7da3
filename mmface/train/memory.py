"""Predicts the peak memory of one training step by running the step on fake tensors, which have shapes but no data.

The step of a recipe (forward, backward, clipping, optimizer, moving average) runs at full size in seconds.
:class:`~mmface.train.memory_account.Account` counts each storage from its allocation until it is freed, by what it is
for; the prediction is the largest sum. Recomputed blocks, autocast's copies of the weights, the activations that
backward needs and accumulated gradients are counted, not guessed. Fake tensors do not show the following:

- buffers of kernels: those of bitsandbytes' optimizer on the CPU are added, all others are small;
- libraries on a GPU: :data:`mmface.estimate.hardware.GPU_OVERHEAD` is added;
- other workers: DDP keeps the gradients in its buckets all the time. FSDP divides weights, gradients, moments and
  average among the workers and gathers one block after the other (:func:`_gathered`).

Autocast follows the CPU's rules. On a GPU layer norm returns fp32, which makes a difference within one block if all
blocks are recomputed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmface.config import Phase, Recipe, Train
from mmface.estimate.shapes import Shapes
from mmface.model import Conditioning, MMFaceDiT
from mmface.networks.precision import computes_in_bf16
from mmface.objectives import Objective, make_objective
from mmface.train.memory_account import Account
from mmface.train.optim import QUANTISED_BLOCK, is_quantised
from mmface.train.placement import recompute

Device = Literal["cpu", "cuda"]
KINDS = ("weights", "gradients", "optimizer", "average", "weight copies", "activations", "workspace")

_DIVIDED = ("weights", "gradients", "optimizer", "average")  # among the workers, by FSDP
_CPU_8BIT_WORK = 24  # bytes per weight: bitsandbytes updates one parameter at a time and makes six fp32 copies of it


@dataclass(frozen=True)
class Place:
    """Where a phase runs.

    Attributes:
        workers: processes that share the global batch.
        device: of each worker.
        average: whether the device also holds the moving average, as in training.
    """

    workers: int
    device: Device
    average: bool = True


@dataclass(frozen=True)
class Peak:
    """Peak memory of a step on one worker.

    Attributes:
        parts: bytes by kind, in the order of :data:`KINDS`.
        moment: what the step was doing at the peak.
        samples: in one micro-batch of this worker.
    """

    parts: dict[str, float]
    moment: str
    samples: int

    @property
    def total(self) -> float:
        """Bytes of all kinds."""
        return sum(self.parts.values())


def training_peak(shapes: Shapes, phase: Phase, place: Place) -> Peak:
    """Peak memory of a worker in the second and every later step of ``phase``.

    Takes seconds, even for a billion weights.
    """
    train, config = shapes.recipe.train, dict(shapes.transformer.config)
    samples = -(-phase.batch_size // (phase.accumulation * place.workers))
    objective = make_objective(**shapes.recipe.objective.model_dump())
    account = Account(_shares(train, place, phase.accumulation))
    with FakeTensorMode(allow_non_fake_inputs=True), account:
        step = _Step(shapes.recipe, config, place, account)
        with account.doing("", "activations"):
            batches = [_batch(shapes, phase, samples) for _ in range(min(phase.accumulation, 2))]
        step.run(objective, batches)
    parts = {kind: account.fullest.get(kind, 0.0) for kind in KINDS}
    if _is_sharded(train, place):
        parts |= _gathered(shapes.transformer, train)
    return Peak(parts, account.moment_of_fullest, samples)


class _Step:
    """Fake tensors for everything that training keeps in memory, and one step over them."""

    def __init__(self, recipe: Recipe, config: dict[str, Any], place: Place, account: Account) -> None:
        self.account, self.place, self.train = account, place, recipe.train
        names = ("in_channels", "text_embed_dim", *recipe.model.model_dump())
        with _default_dtype(torch.bfloat16 if self.train.precision == "bf16-pure" else torch.float32):
            self.model = MMFaceDiT(**{name: config[name] for name in names})
        recompute(self.model, self.train)
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.buckets = place.workers > 1 and not _is_sharded(self.train, place)
        with account.doing("", "average"):
            averaged = self.model.parameters() if place.average else ()
            self.average = [torch.empty_like(parameter, dtype=torch.float32) for parameter in averaged]
        with account.doing("", "optimizer"):
            self.moments = [moment for parameter in self.trained for moment in _moments(parameter, self.train)]
        with account.doing("", "gradients"):
            for parameter in self.trained if self.buckets else ():
                parameter.grad = torch.empty_like(parameter)
        for parameter in self.trained:
            parameter.register_post_accumulate_grad_hook(lambda one: account.rename(one.grad, "gradients"))

    def run(self, objective: Objective, batches: Iterable[tuple[Tensor, Tensor, Tensor, Conditioning]]) -> None:
        """Allocates like :func:`mmface.train.step.backward`, the optimizer and :class:`mmface.train.ema.EMA`."""
        if self.place.device == "cuda":  # this machine may have no GPU; every GPU used for training has bf16
            bf16 = self.train.precision != "fp32"
        else:
            bf16 = computes_in_bf16(self.train.precision, torch.device("cpu"))
        for latents, noise, uniform, conditioning in batches:
            with (
                self.account.doing("forward and backward", "activations"),
                torch.autocast("cpu", torch.bfloat16, enabled=bf16),
            ):
                loss = objective(self.model, latents, noise, objective.timesteps(uniform), conditioning).loss
                loss.sum().backward()  # type: ignore[no-untyped-call]
            del loss
        with self.account.doing("optimizer", "workspace"):
            nn.utils.clip_grad_norm_(self.trained, self.train.gradient_clip)
            if self.train.optimizer != "adamw" and self.place.device == "cpu":
                torch.empty(_CPU_8BIT_WORK * max(one.numel() for one in self.trained), dtype=torch.uint8)
        for parameter in () if self.buckets else self.trained:
            parameter.grad = None
        with self.account.doing("moving average", "workspace"), torch.no_grad():
            for average, parameter in zip(self.average, self.model.parameters(), strict=False):
                average.lerp_(parameter.float(), 0.5)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _batch(shapes: Shapes, phase: Phase, samples: int) -> tuple[Tensor, Tensor, Tensor, Conditioning]:
    latents = torch.empty(samples, *shapes.latent(phase.resolution))
    text = torch.empty(samples, shapes.text_length, shapes.text_width)
    modality = torch.zeros(samples, dtype=torch.long)
    conditioning = Conditioning(torch.empty_like(latents), text, torch.empty(samples, shapes.text_width), modality)
    return latents, torch.empty_like(latents), torch.empty(samples), conditioning


def _moments(parameter: nn.Parameter, train: Train) -> list[Tensor]:
    """Both moments of a parameter, and the scales of 8-bit moments."""
    if train.optimizer == "adamw":
        return [torch.empty_like(parameter) for _ in range(2)]
    if not is_quantised(parameter):
        return [torch.empty_like(parameter, dtype=torch.float32) for _ in range(2)]
    scales = -(-parameter.numel() // QUANTISED_BLOCK)
    moments = [torch.empty_like(parameter, dtype=torch.uint8) for _ in range(2)]
    return [*moments, *(torch.empty(scales) for _ in range(2))]


def _is_sharded(train: Train, place: Place) -> bool:
    return train.parallel == "fsdp" and place.workers > 1


def _shares(train: Train, place: Place, accumulation: int) -> dict[str, float]:
    shares = dict.fromkeys(_DIVIDED, 1 / place.workers) | {"weight copies": 0.0} if _is_sharded(train, place) else {}
    if shares and accumulation > 1:  # every worker sums full gradients in fp32; the last micro-batch divides them
        shares["gradients"] = 2.0 if train.precision == "bf16-pure" else 1.0
    # Paged moments move to the host when the GPU is full.
    return shares | ({"optimizer": 0.0} if train.optimizer == "adamw8bit-paged" else {})


def _gathered(model: MMFaceDiT, train: Train) -> dict[str, float]:
    """Bytes that FSDP gathers temporarily: the weights of the root, of this block and the next, and a block's gradient.

    The gradient exists twice: as it was computed, and as the fp32 copy that is summed over the workers.
    """
    each = 4 if train.precision == "fp32" else 2
    block = sum(parameter.numel() for parameter in model.blocks[0].parameters())
    root = sum(parameter.numel() for parameter in model.parameters()) - block * len(model.blocks)
    return {"weight copies": float(each * (root + 2 * block)), "workspace": float((each + 4) * block)}
