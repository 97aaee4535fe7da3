"""Peak memory of one training step, found by running the step itself without data: every tensor is a shape.

The step of a recipe (forward, backward, clipping, optimizer, moving average) runs on PyTorch's fake tensors, at full
size, in seconds. Each storage that an operation allocates is counted from there until it is freed, by what it is for;
the fullest moment is the prediction. Recomputed blocks, autocast's copies of the weights, what backward keeps and
accumulated gradients are thus counted and not guessed. What is not seen, and how it is accounted for:

- kernels' own buffers: of bitsandbytes' optimizer on the CPU they are known, of the rest they are small;
- a GPU's libraries: :data:`mmface.estimate.hardware.GPU_OVERHEAD` is an allowance;
- workers: DDP keeps the gradients in its buckets all the time. FSDP divides weights, gradients, moments and average,
  and gathers the blocks in turn (:func:`_gathered`).

Rules of autocast are the CPU's; a GPU's let layer norm answer in fp32, which matters within one block when all blocks
are recomputed.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmface.config import Phase, Recipe, Train
from mmface.estimate.shapes import Shapes
from mmface.model import Conditioning, MMFaceDiT
from mmface.networks.precision import computes_in_bf16
from mmface.objectives import Objective, make_objective
from mmface.train.optim import QUANTISED_BLOCK, is_quantised
from mmface.train.placement import recompute

Device = Literal["cpu", "cuda"]
KINDS = ("weights", "gradients", "optimizer", "average", "weight copies", "activations", "workspace")

_DIVIDED = ("weights", "gradients", "optimizer", "average")  # by FSDP
_CPU_8BIT_WORK = 24  # bytes a weight: bitsandbytes updates one parameter at a time through six fp32 copies


@dataclass(frozen=True)
class Place:
    """Where a phase runs.

    Attributes:
        workers: processes that share the global batch.
        device: what each computes on.
        average: whether the moving average is kept there too, as training does.
    """

    workers: int
    device: Device
    average: bool = True


@dataclass(frozen=True)
class Peak:
    """The fullest moment of a step on one worker.

    Attributes:
        parts: bytes by kind, in the order of :data:`KINDS`.
        moment: what the step was doing.
        samples: of one micro-batch of this worker.
    """

    parts: dict[str, float]
    moment: str
    samples: int

    @property
    def total(self) -> float:
        """Bytes."""
        return sum(self.parts.values())


def training_peak(shapes: Shapes, phase: Phase, place: Place) -> Peak:
    """Peak memory of a worker in the second and every later step of ``phase``: seconds, for a billion weights too."""
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


class Account(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of live storages by kind, and a copy of the books at the fullest moment.

    Args:
        shares: what part of a kind this worker holds; all of it where nothing is said.
    """

    def __init__(self, shares: dict[str, float]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shares = shares
        self.kind, self.moment = "weights", ""
        self.live: dict[int, tuple[str, float]] = {}
        self.now: dict[str, float] = defaultdict(float)
        self.fullest: dict[str, float] = {}
        self.moment_of_fullest = ""
        self._most = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        kind = self.kind
        if func is torch.ops.aten._to_copy.default and kind == "activations" and self._kind_of(args[0]) == "weights":
            kind = "weight copies"  # autocast keeps one of each weight until it ends
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._enter(tensor, kind)
        return made

    @contextmanager
    def doing(self, moment: str, kind: str) -> Iterator[None]:
        """What is allocated meanwhile is of this kind."""
        before = self.moment, self.kind
        self.moment, self.kind = moment, kind
        yield
        self.moment, self.kind = before

    def rename(self, tensor: Tensor | None, kind: str) -> None:
        """A tensor turns out to be of another kind."""
        assert tensor is not None
        if self._kind_of(tensor) != kind:
            self._leave(_key(tensor))
            self._add(_key(tensor), kind, tensor.untyped_storage().nbytes())

    def _kind_of(self, tensor: Tensor) -> str:
        return self.live.get(_key(tensor), ("", 0.0))[0]

    def _enter(self, tensor: Tensor, kind: str) -> None:
        storage = tensor.untyped_storage()
        if _key(tensor) not in self.live:
            self._add(_key(tensor), kind, storage.nbytes())
            weakref.finalize(storage, self._leave, _key(tensor))

    def _add(self, key: int, kind: str, size: int) -> None:
        held = size * self.shares.get(kind, 1.0)
        self.live[key] = kind, held
        self.now[kind] += held
        total = sum(self.now.values())
        if total > self._most:
            self._most, self.fullest, self.moment_of_fullest = total, dict(self.now), self.moment

    def _leave(self, key: int) -> None:
        kind, held = self.live.pop(key)
        self.now[kind] -= held


class _Step:
    """Everything that training holds, and one step over it."""

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
        """As :func:`mmface.train.step.backward`, the optimizer and :class:`mmface.train.ema.EMA` do it."""
        if self.place.device == "cuda":  # there need be none here; every one that is trained on has bf16
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


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


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
    """Both moments of a parameter, with the scales of 8-bit ones."""
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
    if shares and accumulation > 1:  # they are summed whole, in fp32, and shared out with the last micro-batch
        shares["gradients"] = 2.0 if train.precision == "bf16-pure" else 1.0
    # Paged moments leave for the host when the GPU is full.
    return shares | ({"optimizer": 0.0} if train.optimizer == "adamw8bit-paged" else {})


def _gathered(model: MMFaceDiT, train: Train) -> dict[str, float]:
    """What FSDP puts together for a while: the root's weights, this block's and the next one's, and its gradient.

    The gradient is there as it was computed and as the fp32 that is summed over the workers.
    """
    each = 4 if train.precision == "fp32" else 2
    block = sum(parameter.numel() for parameter in model.blocks[0].parameters())
    root = sum(parameter.numel() for parameter in model.parameters()) - block * len(model.blocks)
    return {"weight copies": float(each * (root + 2 * block)), "workspace": float((each + 4) * block)}
