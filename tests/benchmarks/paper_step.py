"""Compares the peak memory of one real optimizer step on this machine with the prediction of ``mmface estimate``.

By default the step is that of the paper's model, 1,345,298,624 parameters, at 256 px with one sample: weights and
gradients in bfloat16, all blocks recomputed, 8-bit AdamW, the average in fp32. That takes 14 GiB and minutes. A smaller
trial:

    python -m tests.benchmarks.paper_step --set model.depth=4 [--no-average]

The measured value is VmHWM (Linux) minus the memory of the process before the step. Before that, imports and a step of
a model with one small block load everything that libraries load on first use. The C library is set to return freed
memory at once; otherwise it keeps about 0.3 GiB of the 8-bit optimizer's buffers for a model of any size. The exit code
is 1 if the prediction is off by more than a tenth.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from mmface.config import Recipe
from mmface.config.load import load_recipe
from mmface.estimate.shapes import Shapes
from mmface.model import Conditioning, MMFaceDiT
from mmface.objectives import make_objective
from mmface.train.ema import EMA
from mmface.train.memory import KINDS, Place, training_peak
from mmface.train.optim import make_optimizer, set_learning_rate
from mmface.train.parallel.world import World
from mmface.train.placement import place
from mmface.train.rows.batches import Batch
from mmface.train.step import backward

LIMIT = 0.1
GIB = 2**30
M_MMAP_THRESHOLD = -3  # of mallopt(3); setting it also keeps glibc from raising it
SETTINGS = ["train.precision=bf16-pure", "train.gradient_checkpointing=true", "train.optimizer=adamw8bit"]
SMALL = ["model.hidden_size=64", "model.depth=1", "model.num_heads=1"]


def main(argv: Sequence[str] | None = None) -> int:
    """Prints prediction and measurement; returns 1 if they differ by more than the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="paper-flow")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one recipe key")
    parser.add_argument("--resolution", type=int, default=256, help="default: 256")
    parser.add_argument("--no-average", action="store_true", help="without the moving average")
    given = parser.parse_args(argv)
    one_sample = f"phases=[{{resolution: {given.resolution}, steps: 1, batch_size: 1}}]"
    settings = [one_sample, "train.use_gpu=false", "train.num_workers=1", *SETTINGS, *given.set]

    recipe = load_recipe(given.recipe, settings)
    shapes = Shapes(recipe)
    started = time.monotonic()
    predicted = training_peak(shapes, recipe.phases[0], Place(1, "cpu", average=not given.no_average))
    print(f"{recipe.name}, {shapes.parameters():,} parameters, {given.resolution} px: predicted in ", end="")
    print(f"{time.monotonic() - started:.1f} s; peak in {predicted.moment}")
    for kind in KINDS:
        print(f"  {kind:14}{predicted.parts[kind] / GIB:8.2f} GiB")

    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**18)
    step(load_recipe(given.recipe, [*settings, *SMALL]), average=True)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = resident("VmRSS")
    started = time.monotonic()
    loss = step(recipe, average=not given.no_average)
    measured = resident("VmHWM") - before
    ratio = predicted.total / measured
    print(f"one step: loss {loss:.4f} in {time.monotonic() - started:.0f} s, model built included")
    print(
        f"peak: {predicted.total / GIB:.2f} GiB predicted, {measured / GIB:.2f} measured: {ratio:.3f} (1 ± {LIMIT:g})"
    )
    return int(abs(ratio - 1) > LIMIT)


def step(recipe: Recipe, *, average: bool) -> float:
    """Builds the recipe's model and takes one step on random latents; returns the loss."""
    shapes, world = Shapes(recipe), World()
    torch.manual_seed(0)
    config = shapes.transformer.config
    sizes = {name: config[name] for name in ("in_channels", "text_embed_dim")}
    model: MMFaceDiT = MMFaceDiT(**sizes, **recipe.model.model_dump())
    model.train()
    ema = EMA(model, recipe.train.ema_decay) if average else None
    place(model, model if ema is None else ema.module, recipe.train, world)
    optimizer = make_optimizer(model.parameters(), recipe.train)
    set_learning_rate(optimizer, recipe.phases[0].learning_rate)
    objective = make_objective(**recipe.objective.model_dump())
    losses = backward(model, objective, [batch(shapes)], 1, recipe.train, world)
    optimizer.step()
    optimizer.zero_grad()
    if ema is not None:
        ema.update(0)
    return float(losses.loss)


def batch(shapes: Shapes) -> Batch:
    """One random sample of the recipe's shapes."""
    latent = (1, *shapes.latent(shapes.recipe.phases[0].resolution))
    text = torch.randn(1, shapes.text_length, shapes.text_width)
    condition = Conditioning(torch.randn(latent), text, text[:, 0].clone(), torch.zeros(1, dtype=torch.long))
    return Batch(torch.arange(1), ("random",), torch.randn(latent), torch.randn(latent), torch.rand(1), condition)


def resident(name: str) -> int:
    """A value of ``/proc/self/status`` in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    sys.exit(main())
