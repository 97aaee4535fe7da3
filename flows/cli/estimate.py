"""``mmface estimate``: hours, storage, cost and training memory of a recipe, with the source of every figure."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from flows.cli.tables import size, table

ABOUT = """
Estimate hours, storage and cost of a recipe before anything runs. FLOPs and bytes are counted from the shapes of the
recipe; measured, published and assumed figures are marked as such. Without --usd-per-gpu-hour there is no cost. With
--memory, print the peak memory of training on each GPU instead: the step runs at full size on shapes without data.
"""
GIB = 2**30


def add_command(commands: Any, add_recipe: Callable[[argparse.ArgumentParser], None]) -> None:
    """Wires the command into the parser of ``mmface``."""
    command = commands.add_parser(
        "estimate", help="Estimate hours, storage, cost and memory of a recipe, with sources.", description=ABOUT
    )
    add_recipe(command)
    command.add_argument("--images", type=int, metavar="N", help="number of photographs; required without --memory")
    command.add_argument(
        "--gpus", metavar="NUMBERxNAME", help="such as 8xA100 (with --memory: default the recipe's workers)"
    )
    command.add_argument("--memory", action="store_true", help="print the peak memory of training on each GPU by phase")
    command.add_argument("--gpu-memory", type=float, default=32, metavar="GIB", help="memory of one GPU (default: 32)")
    command.add_argument("--cpus", type=int, metavar="N", help="CPU cores (default: data.workers of the recipe)")
    command.add_argument("--photo-bytes", type=float, metavar="N", help="size of one photograph")
    command.add_argument("--usd-per-gpu-hour", type=float, metavar="USD", help="price of one GPU for an hour")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """``mmface estimate``."""
    return _memory(arguments) if arguments.memory else _stages(arguments)


def _stages(arguments: argparse.Namespace) -> int:
    from mmface.config.load import load_recipe
    from mmface.errors import InputError
    from mmface.estimate.hardware import ENCODING, PAINTING, PHOTO_BYTES, TRAINING, WRITING, Figure, parse_machine
    from mmface.estimate.prediction import estimate

    price, photo = arguments.usd_per_gpu_hour, PHOTO_BYTES
    for option, value in (("--usd-per-gpu-hour", price), ("--photo-bytes", arguments.photo_bytes)):
        if value is not None and not value > 0:
            raise InputError(f"{value:g} is not above 0", field=option)
    if arguments.photo_bytes is not None:
        photo = Figure(arguments.photo_bytes, "--photo-bytes")
    for option, value in (("--images", arguments.images), ("--gpus", arguments.gpus)):
        if value is None:
            raise InputError("is required without --memory", field=option)
    recipe = load_recipe(arguments.recipe, arguments.set)
    machine = parse_machine(arguments.gpus, recipe.data.workers if arguments.cpus is None else arguments.cpus)
    lines = list(estimate(recipe, arguments.images, machine, photo))

    def cost(hours: float) -> str:
        return "-" if price is None else f"{hours * machine.gpus * price:,.2f}"

    rows = [[line.stage, _hours(line.hours), size(line.size), cost(line.hours)] for line in lines]
    hours = sum(line.hours for line in lines)
    rows.append(["total", _hours(hours), size(sum(line.size for line in lines)), cost(hours)])
    print(f"{recipe.name}: {arguments.images:,} photographs on {arguments.gpus} and {machine.cpus} CPU cores")
    print(table(["stage", "hours", "storage", "USD"], rows, right=(1, 2, 3)))
    if price is None:
        print("USD: no price; give --usd-per-gpu-hour")
    else:
        print(f"USD: hours x {machine.gpus} GPUs x {price:g} (--usd-per-gpu-hour); storage is not priced")
    print("\nsources")
    for line in lines:
        for source in line.sources:
            print(f"  {line.stage:14}{source}")
    peaks = f"{machine.gpu.bf16 / 1e12:g} TFLOP/s bf16, {machine.gpu.fp32 / 1e12:g} fp32"
    print(f"  {machine.name:14}{peaks} ({machine.gpu.source})")
    for figure in (TRAINING, ENCODING, PAINTING, WRITING):
        print(f"  {figure.value:<14g}{figure.source}")
    return 0


def _memory(arguments: argparse.Namespace) -> int:
    from mmface.config.load import load_recipe
    from mmface.errors import InputError
    from mmface.estimate.hardware import GPU_OVERHEAD, parse_machine
    from mmface.estimate.shapes import Shapes
    from mmface.train.memory import KINDS, Place, training_peak

    if not arguments.gpu_memory > 0:
        raise InputError(f"{arguments.gpu_memory:g} is not above 0", field="--gpu-memory")
    recipe = load_recipe(arguments.recipe, arguments.set)
    workers = parse_machine(arguments.gpus, 1).gpus if arguments.gpus else recipe.train.num_workers
    on_gpu = bool(arguments.gpus) or recipe.train.use_gpu
    shapes, place = Shapes(recipe), Place(workers, "cuda" if on_gpu else "cpu")
    peaks = [training_peak(shapes, phase, place) for phase in recipe.phases]
    extra = GPU_OVERHEAD.value if on_gpu else 0.0
    names = [f"{phase.resolution} px" for phase in recipe.phases]
    rows = [["samples at once", *(str(peak.samples) for peak in peaks)]]
    rows += [[kind, *(_gib(peak.parts[kind]) for peak in peaks)] for kind in KINDS]
    rows += [["libraries", *(_gib(extra) for _ in peaks)], ["peak", *(_gib(peak.total + extra) for peak in peaks)]]
    each = f"{workers} {'GPU' if on_gpu else 'CPU worker'}{'s' * (workers > 1)}, {recipe.train.parallel}"
    print(f"{recipe.name}: GiB on each of {each}; {shapes.parameters():,} parameters, {recipe.train.precision}")
    print(table(["", *names], rows, right=tuple(range(1, len(names) + 1))))
    for name, peak in zip(names, peaks, strict=True):
        left = arguments.gpu_memory - (peak.total + extra) / GIB
        verdict = f"fits, {left:.1f} GiB are left" if left >= 0 else f"does not fit, {-left:.1f} GiB are missing"
        print(f"{name}: {workers} x {arguments.gpu_memory:g} GiB {verdict}; peak in {peak.moment}")
    if on_gpu:
        print(f"libraries: {_gib(extra)} GiB, {GPU_OVERHEAD.source}; everything else is computed from the shapes")
    return 0


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"


def _hours(hours: float) -> str:
    return f"{hours:,.2f}" if hours >= 0.1 else f"{hours:.2g}"
