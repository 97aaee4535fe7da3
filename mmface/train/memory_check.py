"""Checks that a phase fits into the memory of its device, before anything is loaded."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

from mmface.config import Recipe
from mmface.errors import InputError, RecipeError
from mmface.estimate.hardware import GPU_OVERHEAD
from mmface.estimate.shapes import Shapes
from mmface.train.memory import Place, training_peak
from mmface.train.parallel.world import World

log = logging.getLogger(__name__)

GIB = 2**30
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
REMEDY = (
    "raise phases.accumulation, or set train.gradient_checkpointing, train.optimizer=adamw8bit, "
    "train.precision=bf16-pure or, with several workers, train.parallel=fsdp; mmface estimate --memory shows the effect"
)


def check_memory(recipe: Recipe, index: int, world: World, neighbours: int = 1) -> None:
    """Compares the predicted peak memory of phase ``index`` with the memory of the device.

    :func:`mmface.train.memory.training_peak` predicts it. Logs a warning and checks nothing if a component's shape is
    not known on this machine.

    Args:
        neighbours: workers on this machine, this one included; on the CPU they share its memory.

    Raises:
        RecipeError: the peak is larger than the device's memory.
    """
    on_gpu = world.device.type == "cuda"
    try:
        peak = training_peak(Shapes(recipe), recipe.phases[index], Place(world.size, "cuda" if on_gpu else "cpu"))
    except InputError as error:
        # Training needs no shape of a component on this machine, so it may still work.
        log.warning("memory is not checked: %s", error)
        return
    needed, moment = peak.total + (GPU_OVERHEAD.value if on_gpu else 0), peak.moment
    # On the CPU a checkpoint is written from a copy, which shares the memory with the original.
    copied = 0.0 if on_gpu else 2 * sum(peak.parts[kind] for kind in ("weights", "optimizer", "average"))
    if copied > needed:
        needed, moment = copied, "checkpoint"
    available = gpu_memory(world.device) if on_gpu else machine_memory() / neighbours
    if needed > available:
        message = (
            f"a step needs {needed / GIB:.1f} GiB at its peak ({moment}), but a worker has {available / GIB:.1f} GiB "
            f"({world.device}); {REMEDY}"
        )
        raise RecipeError(message, field=f"phases.{index}")


def gpu_memory(device: torch.device) -> float:
    """Total memory of a GPU in bytes."""
    return float(torch.cuda.get_device_properties(device).total_memory)


def machine_memory() -> float:
    """Memory of this machine in bytes, or the limit of its container if that is lower."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else "max"
    return float(min(physical, int(limit)) if limit.isdecimal() else physical)
