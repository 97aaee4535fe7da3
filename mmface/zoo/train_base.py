"""Trains ``zoo:base``, the transformer that recipes start from: hours on portraits that are drawn while it trains.

The first phase keeps its learning rate, so that it can be made longer; the second lowers it to zero. Both write
checkpoints into the home: a run of many hours is interrupted, and the same command resumes from the newest.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from mmface.config import Recipe, fingerprint
from mmface.config.load import load_recipe
from mmface.store import home
from mmface.train.checkpoints.keeper import Keeper
from mmface.train.checkpoints.run import Checkpoints
from mmface.train.checkpoints.state import TRANSFORMER, TrainState, load_checkpoint
from mmface.train.hooks import Hooks
from mmface.train.loop import advance, make_state
from mmface.train.parallel.world import World
from mmface.train.rows.sets import TrainingSet
from mmface.train.start import record_components
from mmface.zoo.drawn import HELD_OUT_SEED, SIZE
from mmface.zoo.stream import Stream

log = logging.getLogger(__name__)

FIRST_SEED = 2_000_000  # no other network of the zoo is trained on these portraits
WINDOW = 2048  # portraits in memory
USES = 32  # how often each portrait is used: drawing and encoding one takes longer than training on it
HELD_OUT = 32
LOG = "training.log"


@dataclass(frozen=True)
class Run:
    """What the phases of one training share.

    Attributes:
        window: portraits in memory.
        uses: how often each is used.
    """

    recipe: Recipe
    stream: Stream
    held_out: TrainingSet
    window: int
    uses: int

    def first_step(self, index: int) -> int:
        """Steps of all phases before phase ``index``."""
        return sum(phase.total_steps(self.window) for phase in self.recipe.phases[:index])

    def steps_per_window(self, index: int) -> int:
        """Optimizer steps of phase ``index`` on one window of portraits."""
        return self.window * self.uses // self.recipe.phases[index].batch_size


def base_recipe(steady: int = 30_000, falling: int = 6_000) -> Recipe:
    """The recipe ``demo`` with phases of many steps and a longer average."""
    phase = f"resolution: {SIZE}, batch_size: 16, learning_rate: 5.0e-4"
    phases = (
        f"{{{phase}, steps: {steady}, final_learning_rate: 5.0e-4, warmup_steps: 200}}",
        f"{{{phase}, steps: {falling}, warmup_steps: 100}}",
    )
    train = ("ema_decay=0.9995", "checkpoint_every=500", "log_every=100")
    return load_recipe("demo", [f"phases=[{', '.join(phases)}]", *(f"train.{one}" for one in train)])


def train(out: Path, *, recipe: Recipe | None = None, window: int = WINDOW, uses: int = USES) -> None:
    """Trains and saves bf16 weights in ``out``, with the log of its training.

    Args:
        recipe: another recipe than :func:`base_recipe`.
        window: portraits in memory.
        uses: how often each portrait is used.

    Raises:
        TrainingError: the loss explodes, or every checkpoint is damaged.
        ServiceError: the home cannot be written.
    """
    recipe = recipe or base_recipe()
    stream = Stream(recipe)
    run = Run(recipe, stream, stream.rows(HELD_OUT_SEED, HELD_OUT), window, uses)
    out.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        previous = None
        for index in range(len(recipe.phases)):
            state = _train_phase(run, index, previous)
            previous = Path(scratch, str(index))
            state.ema.module.save_pretrained(previous / TRANSFORMER)
            lines += [_line(index, entry) for entry in state.history if "held_out/loss" in entry]
    nn.Module.to(state.ema.module, torch.bfloat16)  # without the notice of diffusers
    state.ema.module.save_pretrained(out)
    record_components(recipe, out)
    (out / LOG).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    for index in range(len(recipe.phases)):
        _checkpoints(run, index).remove()


def _train_phase(run: Run, index: int, previous: Path | None) -> TrainState:
    """Trains a phase to its last step, from its newest checkpoint if it has one."""
    checkpoints, world, phase = _checkpoints(run, index), World(), run.recipe.phases[index]
    state = make_state(run.recipe, run.held_out, world, run=checkpoints.run, previous=previous)
    state.rows = run.window
    with tempfile.TemporaryDirectory() as folder:
        found = checkpoints.newest(Path(folder))
        if found:
            log.info("%s %s", checkpoints.run, found)
            load_checkpoint(state, Path(folder))
    each, length = run.steps_per_window(index), phase.total_steps(run.window)
    with Keeper(checkpoints, world, safe=state.step or None) as keeper:
        hooks = Hooks(lambda entry: _print(index, entry), keeper.save)
        while state.step < length:
            before, number = divmod(run.first_step(index), each)[0], state.step // each
            rows = run.stream.rows(FIRST_SEED + (before + number) * run.window, run.window)
            advance(state, run.recipe, index, rows, hooks, world, run.held_out, until=(number + 1) * each)
    return state


def _checkpoints(run: Run, index: int) -> Checkpoints:
    shared = run.recipe.model_dump(mode="json", include={"model", "objective", "train", "components", "data"})
    phases = run.recipe.model_dump(mode="json", include={"phases"})["phases"][: index + 1]
    return Checkpoints(home(), f"zoo-base-{index}-{fingerprint(shared, phases, run.window, run.uses)}")


def _print(index: int, entry: dict[str, float]) -> None:
    if "held_out/loss" in entry:
        print(f"base {_line(index, entry)}  {entry['images_per_s']:.1f} images/s", flush=True)


def _line(index: int, entry: dict[str, float]) -> str:
    return f"phase {index} step {entry['step']:.0f}: loss {entry['loss']:.4f}  held-out {entry['held_out/loss']:.4f}"
