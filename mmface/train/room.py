"""Whether a phase fits into the memory of its device, told before anything is loaded."""

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
    "train.precision=bf16-pure or, with several workers, train.parallel=fsdp; mmface estimate --memory tells what helps"
)


def check_room(recipe: Recipe, index: int, world: World, neighbours: int = 1) -> None:
    """Predicts the fullest moment of a step of phase ``index`` (:func:`mmface.train.memory.training_peak`).

    Args:
        neighbours: workers of this machine, which share its memory if they compute on the CPU.

    Raises:
        RecipeError: it is more than the device can ever have.
    """
    on_gpu = world.device.type == "cuda"
    try:
        peak = training_peak(Shapes(recipe), recipe.phases[index], Place(world.size, "cuda" if on_gpu else "cpu"))
    except InputError as error:
        log.warning(
            "memory is not checked: %s", error
        )  # a network whose shape is not known here may train all the same
        return
    needed, moment = peak.total + (GPU_OVERHEAD.value if on_gpu else 0), peak.moment
    # On the CPU the copy that a checkpoint is written from lies beside what it is a copy of.
    copied = 0.0 if on_gpu else 2 * sum(peak.parts[kind] for kind in ("weights", "optimizer", "average"))
    if copied > needed:
        needed, moment = copied, "checkpoint"
    room = gpu_memory(world.device) if on_gpu else machine_memory() / neighbours
    if needed > room:
        message = (
            f"a step takes {needed / GIB:.1f} GiB at its fullest ({moment}), and a worker has {room / GIB:.1f} "
            f"({world.device}); {REMEDY}"
        )
        raise RecipeError(message, field=f"phases.{index}")


def gpu_memory(device: torch.device) -> float:
    """Bytes of a GPU."""
    return float(torch.cuda.get_device_properties(device).total_memory)


def machine_memory() -> float:
    """Bytes of this machine, or what its container may take of them."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else "max"
    return float(min(physical, int(limit)) if limit.isdecimal() else physical)
