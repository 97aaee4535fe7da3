"""``mmface estimate``: hours, storage and cost of a recipe, stage by stage, with the source of every figure."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from flows.tables import size, table

ABOUT = """
Says what a recipe would take before anything runs. FLOPs and bytes are counted from the recipe's shapes; what was
measured, published or assumed is named as such. No price is known: without --usd-per-gpu-hour there is no cost.
"""


def add_command(commands: Any, add_recipe: Callable[[argparse.ArgumentParser], None]) -> None:
    """Wires the command into the parser of ``mmface``."""
    command = commands.add_parser(
        "estimate", help="Hours, storage and cost of a recipe, with sources.", description=ABOUT
    )
    add_recipe(command)
    command.add_argument("--images", type=int, required=True, metavar="N", help="photographs")
    command.add_argument("--gpus", required=True, metavar="NUMBERxNAME", help="for example 8xA100")
    command.add_argument("--cpus", type=int, metavar="N", help="CPU cores (default: data.workers of the recipe)")
    command.add_argument("--photo-bytes", type=float, metavar="N", help="bytes of one photograph")
    command.add_argument("--usd-per-gpu-hour", type=float, metavar="USD", help="what one GPU costs an hour")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """``mmface estimate``."""
    from mmface.costs import ENCODING, PAINTING, PHOTO_BYTES, TRAINING, WRITING, Figure
    from mmface.errors import InputError
    from mmface.estimate import estimate, parse_machine
    from mmface.recipes import load_recipe

    price, photo = arguments.usd_per_gpu_hour, PHOTO_BYTES
    for option, value in (("--usd-per-gpu-hour", price), ("--photo-bytes", arguments.photo_bytes)):
        if value is not None and not value > 0:
            raise InputError(f"{value:g} is not above 0", field=option)
    if arguments.photo_bytes is not None:
        photo = Figure(arguments.photo_bytes, "--photo-bytes")
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
        print("USD: no price is known; give --usd-per-gpu-hour")
    else:
        print(f"USD: hours x {machine.gpus} GPUs x {price:g} (--usd-per-gpu-hour); storage is not priced")
    print("\nwhere it comes from")
    for line in lines:
        for source in line.sources:
            print(f"  {line.stage:14}{source}")
    peaks = f"{machine.gpu.bf16 / 1e12:g} TFLOP/s bf16, {machine.gpu.fp32 / 1e12:g} fp32"
    print(f"  {machine.name:14}{peaks} ({machine.gpu.source})")
    for figure in (TRAINING, ENCODING, PAINTING, WRITING):
        print(f"  {figure.value:<14g}{figure.source}")
    return 0


def _hours(hours: float) -> str:
    return f"{hours:,.2f}" if hours >= 0.1 else f"{hours:.2g}"
