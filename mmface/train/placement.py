"""Prepares the model for training (device, precision, recomputation, compilation, shards) and gathers its full state.

``train.parallel: ddp`` keeps a full model on every rank. ``fsdp`` (FSDP2, ``fully_shard``) divides every weight, its
average and its moments among the ranks, and gathers a block's weights while it computes. One process needs neither.
"""

from __future__ import annotations

import os
import shutil
import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from mmface.config import Train
from mmface.errors import RecipeError
from mmface.model import MMFaceDiT
from mmface.networks.precision import computes_in_bf16
from mmface.train.optim import QUANTISED_BLOCK, is_quantised
from mmface.train.parallel.shards import Cut, local, part_length, whole
from mmface.train.parallel.world import World


def place(model: MMFaceDiT, average: MMFaceDiT, train: Train, world: World) -> None:
    """Prepares a new model and its average for training, in place. Every rank calls it with full models on the CPU.

    ``bf16-pure`` casts the model to bf16; the average is always fp32.

    Raises:
        RecipeError: ``train.compile`` without a C++ compiler, or shards that split the blocks of 8-bit moments.
    """
    if train.precision == "bf16-pure":
        nn.Module.to(model, torch.bfloat16)
    recompute(model, train)
    if train.compile:
        _compile(model)
    if train.parallel == "ddp" or world.size == 1:
        nn.Module.to(model, world.device)
        nn.Module.to(average, world.device)
        return
    require_whole_blocks(model, train, world.size)
    computing = torch.bfloat16 if computes_in_bf16(train.precision, world.device) else None
    # Gradients are summed in fp32, as with DDP, whose weights are fp32.
    _shard(model, world, MixedPrecisionPolicy(computing, torch.float32, cast_forward_inputs=False))
    _shard(average, world, MixedPrecisionPolicy())


def require_whole_blocks(model: MMFaceDiT, train: Train, size: int) -> None:
    """Checks that ``size`` workers can divide the optimizer's moments of ``model``.

    Raises:
        RecipeError: shards would split the blocks of 8-bit moments.
    """
    if train.parallel == "ddp" or train.optimizer == "adamw" or size == 1:
        return
    for name, parameter in model.named_parameters():
        length = part_length(parameter.shape, size)
        whole_blocks = length % QUANTISED_BLOCK == 0 or length >= parameter.numel()
        if parameter.requires_grad and is_quantised(parameter) and not whole_blocks:
            raise RecipeError(
                f"{size} workers divide {name} into shards of {length} weights, which is not a multiple of "
                f"{QUANTISED_BLOCK}, the block of 8-bit moments: set another train.num_workers (and "
                "train.min_workers), train.parallel=ddp or train.optimizer=adamw",
                field="train.optimizer",
            )


def wrap(model: MMFaceDiT, world: World) -> nn.Module:
    """The module for :func:`~mmface.train.step.backward`: the model, in DDP if several ranks have a full copy."""
    # Weights without gradient (§4, last block) are frozen in the model, so DDP does not wait for them.
    if world.size == 1 or isinstance(model, FSDPModule):
        return model
    devices = [world.device] if world.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)


def full_state(model: MMFaceDiT, average: MMFaceDiT, optimizer: Optimizer) -> dict[str, dict[str, Any]]:
    """Gathers weights, average and optimizer state on rank 0, in a form that does not depend on the number of workers.

    A collective: every rank calls it.

    Returns:
        On rank 0 full CPU tensors: ``model`` and ``ema``, state dicts of the transformer, and ``optimizer``, a state
        dict of the optimizer over the full trainable parameters. They may share memory with the run: write or copy
        them before the next step. On other ranks the three are empty.
    """
    keep = not dist.is_initialized() or dist.get_rank() == 0
    return {
        "model": _whole_weights(model, keep),
        "ema": _whole_weights(average, keep),
        "optimizer": _whole_optimizer(model, optimizer, keep),
    }


def load_full_state(
    model: MMFaceDiT, average: MMFaceDiT, optimizer: Optimizer, full: dict[str, dict[str, Any]]
) -> None:
    """Loads the result of :func:`full_state` on rank 0, bit for bit, into a run with any number of workers.

    Every rank gets the full state and copies its shards; no reference to ``full`` is kept.
    """
    for module, values in ((model, full["model"]), (average, full["ema"])):
        own = module.state_dict()
        module.load_state_dict({name: _part(value, own.get(name)) for name, value in values.items()})
    parameters = _trainable(model)
    moments = {
        index: {name: _moment_part(name, value, parameters[index]) for name, value in values.items()}
        for index, values in full["optimizer"]["state"].items()
    }
    optimizer.load_state_dict({**full["optimizer"], "state": moments})


def recompute(model: MMFaceDiT, train: Train) -> None:
    """Turns on gradient checkpointing for the first blocks, as many as the recipe says.

    Backward computes their activations again instead of keeping them.
    """
    blocks = set(model.blocks[: train.recomputed_blocks(len(model.blocks))])

    def run(block: nn.Module, *inputs: Any) -> Any:
        if block not in blocks:
            return block(*inputs)
        # Blocks draw no random numbers, so the state of the generators need not be restored.
        return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)

    if blocks:
        model.enable_gradient_checkpointing(run)


def _compile(model: MMFaceDiT) -> None:
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise RecipeError(
            f"compiling needs a C++ compiler, but {compiler} was not found: install it, name one in CXX, or set false",
            field="train.compile",
        )
    model.compile_repeated_blocks()  # type: ignore[no-untyped-call]


def _shard(model: MMFaceDiT, world: World, policy: MixedPrecisionPolicy) -> None:
    # FSDP2 warns that writing into the views that blocks return is unsafe. Our code never writes into them.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(world.device.type, (world.size,))
    for module in (*model.blocks, model):
        # Outside of forward and backward every weight is a shard, including those of the root module.
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=True)


def _trainable(model: MMFaceDiT) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _whole_weights(model: MMFaceDiT, keep: bool) -> dict[str, Tensor]:
    full = {}
    for name, weight in model.state_dict().items():
        value = whole(weight)  # one weight at a time: all ranks gather it, rank 0 keeps it
        if keep:
            full[name] = value.cpu()
    return full


def _whole_optimizer(model: MMFaceDiT, optimizer: Optimizer, keep: bool) -> dict[str, Any]:
    own, parameters = optimizer.state_dict(), _trainable(model)
    moments: dict[int, dict[str, Any]] = {}
    for index, values in own["state"].items():
        for name, part in values.items():
            value = _whole_moment(name, part, parameters[index])
            if keep:
                moments.setdefault(index, {})[name] = value.cpu() if isinstance(value, Tensor) else value
    return {**own, "state": moments} if keep else {}


def _part(value: Tensor, own: Tensor | None) -> Tensor:
    if not isinstance(own, DTensor):
        return value
    return distribute_tensor(value, own.device_mesh, own.placements, src_data_rank=None)


def _whole_moment(name: str, value: Any, parameter: nn.Parameter) -> Any:
    if not isinstance(parameter, DTensor) or not _is_cut(name, value):
        return value
    if name.startswith("absmax"):
        return Cut.of(parameter).join(value, QUANTISED_BLOCK)
    return Cut.of(parameter).join(value).view(parameter.shape)


def _moment_part(name: str, value: Any, parameter: nn.Parameter) -> Any:
    if not isinstance(value, Tensor):
        return value
    if not isinstance(parameter, DTensor) or not _is_cut(name, value):
        return value.clone()  # torch's optimizers keep the tensors they load and write into them
    if name.startswith("absmax"):
        return Cut.of(parameter).take(value, QUANTISED_BLOCK).clone()
    return Cut.of(parameter).take(value).view(local(parameter).shape).clone()


def _is_cut(name: str, value: Any) -> bool:
    # The step count and the 8-bit code book are the same on every rank.
    return isinstance(value, Tensor) and value.ndim > 0 and not name.startswith("qmap")
