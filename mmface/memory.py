"""Peak memory of one training step, found by running the step itself without data: every tensor is a shape.

The step of a recipe (forward, backward, clipping, optimizer, moving average) runs on PyTorch's fake tensors, at full
size, in seconds. Each storage that an operation allocates is counted from there until it is freed, by what it is for;
the fullest moment is the prediction. Gradient checkpointing, autocast's copies of the weights, what backward keeps and
accumulated gradients are thus counted and not guessed. What a kernel allocates for itself is not seen: of
bitsandbytes' optimizer on the CPU it is known (``_workspace``), of a GPU's libraries :data:`mmface.costs.GPU_OVERHEAD`
is an allowance.

With several workers, DDP holds the gradients in its buckets from the first step on; a sharded model (FSDP) divides
weights, gradients, optimizer and average, and gathers two blocks at a time.
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
from mmface.model import Conditioning, MMFaceDiT
from mmface.objectives import Objective, make_objective
from mmface.shapes import Shapes
from mmface.train.ema import EMA

Device = Literal["cpu", "cuda"]
KINDS = ("weights", "gradients", "optimizer", "average", "weight copies", "activations", "workspace")

_SHARDED = ("weights", "gradients", "optimizer", "average")
_MIN_8BIT, _BLOCK = 4096, 256  # bitsandbytes: smaller parameters keep fp32 states; one fp32 scale a block
_CPU_8BIT_WORK = 24  # bytes a weight: bitsandbytes updates one parameter at a time through six fp32 copies


@dataclass(frozen=True)
class Plan:
    """How a phase is spread over machines.

    Attributes:
        workers: processes that share the global batch.
        device: where they compute.
        pure: weights and gradients in bfloat16, instead of fp32 weights under autocast.
        sharded: FSDP instead of DDP.
        average: whether the moving average is kept beside the weights.
    """

    workers: int = 1
    device: Device = "cpu"
    pure: bool = False
    sharded: bool = False
    average: bool = True


@dataclass(frozen=True)
class Peak:
    """The fullest moment of a step.

    Attributes:
        parts: bytes by kind, in the order of :data:`KINDS`.
        moment: what the step was doing.
        samples: of one micro-batch of one worker.
    """

    parts: dict[str, float]
    moment: str
    samples: int

    @property
    def total(self) -> float:
        """Bytes."""
        return sum(self.parts.values())


def training_peak(shapes: Shapes, phase: Phase, plan: Plan) -> Peak:
    """Peak memory of one worker in the second and every later step of ``phase``; seconds for a billion weights."""
    recipe = shapes.recipe
    samples = -(-phase.batch_size // (phase.accumulation * plan.workers))
    objective = make_objective(**recipe.objective.model_dump())
    account = _Account()
    with FakeTensorMode(allow_non_fake_inputs=True), account:
        step = _Step(shapes, plan, account)
        step.run(objective, [_batch(shapes, phase, samples)] * min(phase.accumulation, 2))
    parts = {kind: float(account.fullest.get(kind, 0)) for kind in KINDS}
    if plan.sharded:
        parts = _sharded(parts, shapes.transformer, plan)
    return Peak(parts, account.moment_of_fullest, samples)


class _Account(TorchDispatchMode):
    """Bytes of live storages by kind, and a copy of the books at the fullest moment."""

    def __init__(self) -> None:
        super().__init__()
        self.kind, self.moment = "weights", ""
        self.live: dict[int, tuple[str, int]] = {}
        self.now: dict[str, int] = defaultdict(int)
        self.fullest: dict[str, int] = {}
        self.moment_of_fullest = ""
        self._sum, self._most = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        # Under autocast a weight is cast once a step and the copy kept for all its uses.
        cast = func is torch.ops.aten._to_copy.default and self._kind_of(args[0]) == "weights"
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._enter(tensor, "weight copies" if cast and self.kind == "activations" else self.kind)
        return made

    @contextmanager
    def doing(self, moment: str, kind: str) -> Iterator[None]:
        """What is allocated meanwhile is of this kind."""
        before = self.moment, self.kind
        self.moment, self.kind = moment, kind
        yield
        self.moment, self.kind = before

    def rename(self, tensor: Tensor, kind: str) -> None:
        """A tensor turns out to be of another kind."""
        key = tensor.untyped_storage()._cdata
        old, size = self.live[key]
        self.live[key] = kind, size
        self.now[old] -= size
        self.now[kind] += size

    def _kind_of(self, tensor: Tensor) -> str:
        return self.live.get(tensor.untyped_storage()._cdata, ("", 0))[0]

    def _enter(self, tensor: Tensor, kind: str) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.live:
            return
        self.live[key] = kind, size
        self.now[kind] += size
        self._sum += size
        weakref.finalize(storage, self._leave, key)
        if self._sum > self._most:
            self._most, self.fullest, self.moment_of_fullest = self._sum, dict(self.now), self.moment

    def _leave(self, key: int) -> None:
        kind, size = self.live.pop(key)
        self.now[kind] -= size
        self._sum -= size


class _Step:
    """Everything that training holds, and one step over it."""

    def __init__(self, shapes: Shapes, plan: Plan, account: _Account) -> None:
        self.account, self.plan, self.train = account, plan, shapes.recipe.train
        with _default(torch.bfloat16 if plan.pure else torch.float32):
            self.model = MMFaceDiT(**_arguments(shapes))
        if self.train.gradient_checkpointing:
            self.model.enable_gradient_checkpointing()
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        with account.doing("", "average"):
            self.average = EMA(self.model, self.train.ema_decay) if plan.average else None
        with account.doing("", "optimizer"):
            self.states = [state for parameter in self.trained for state in _states(parameter, self.train)]
        with account.doing("", "gradients"):
            for parameter in self.trained if plan.workers > 1 and not plan.sharded else ():
                parameter.grad = torch.zeros_like(parameter)
        for parameter in self.trained:
            parameter.register_post_accumulate_grad_hook(lambda one: account.rename(_grad(one), "gradients"))

    def run(self, objective: Objective, batches: Iterable[tuple[Tensor, Tensor, Tensor, Conditioning]]) -> None:
        """The step as :func:`mmface.train.step.backward` and :func:`mmface.train.loop.apply` do it."""
        bf16 = self.train.precision != "fp32" and not self.plan.pure
        dtype = torch.bfloat16 if self.plan.pure else torch.float32
        for latents, noise, uniform, conditioning in batches:
            with self.account.doing("forward and backward", "activations"), torch.autocast("cpu", enabled=bf16):
                given = latents.to(dtype), noise.to(dtype), objective.timesteps(uniform)
                objective(self.model, *given, conditioning.to("cpu", dtype)).loss.sum().backward()  # type: ignore[no-untyped-call]
        with self.account.doing("optimizer", "workspace"):
            nn.utils.clip_grad_norm_(self.trained, self.train.gradient_clip)
            _workspace(self.trained, self.train, self.plan.device)
        for parameter in self.trained if self.plan.workers == 1 or self.plan.sharded else ():
            parameter.grad = None
        if self.average is not None:
            with self.account.doing("moving average", "workspace"):
                self.average.update(0)


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _arguments(shapes: Shapes) -> dict[str, Any]:
    config = shapes.transformer.config
    return {name: config[name] for name in ("in_channels", "text_embed_dim", *shapes.recipe.model.model_dump())}


def _batch(shapes: Shapes, phase: Phase, samples: int) -> tuple[Tensor, Tensor, Tensor, Conditioning]:
    latents = torch.empty(samples, *shapes.latent(phase.resolution))
    text = torch.empty(samples, shapes.text_length, shapes.text_width)
    modality = torch.zeros(samples, dtype=torch.long)
    conditioning = Conditioning(torch.empty_like(latents), text, torch.empty(samples, shapes.text_width), modality)
    return latents, torch.empty_like(latents), torch.empty(samples), conditioning


def _states(parameter: Tensor, train: Train) -> list[Tensor]:
    """Two moments of a parameter."""
    if train.optimizer == "adamw":
        return [torch.empty_like(parameter) for _ in range(2)]
    if parameter.numel() < _MIN_8BIT:
        return [torch.empty_like(parameter, dtype=torch.float32) for _ in range(2)]
    scales = -(-parameter.numel() // _BLOCK)
    moments = [torch.empty_like(parameter, dtype=torch.uint8) for _ in range(2)]
    return [*moments, *(torch.empty(scales) for _ in range(2))]


def _workspace(parameters: Iterable[Tensor], train: Train, device: Device) -> None:
    if train.optimizer == "adamw8bit" and device == "cpu":
        torch.empty(_CPU_8BIT_WORK * max(parameter.numel() for parameter in parameters), dtype=torch.uint8)


def _sharded(parts: dict[str, float], model: MMFaceDiT, plan: Plan) -> dict[str, float]:
    """What FSDP leaves on one worker; two blocks are whole at a time, and one block's gradients."""
    block = sum(parameter.numel() for parameter in model.blocks[0].parameters())
    bytes_each = 2 if plan.pure else 4
    shared = {kind: size / plan.workers if kind in _SHARDED else size for kind, size in parts.items()}
    return shared | {"weight copies": 3.0 * bytes_each * block}


def _grad(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
