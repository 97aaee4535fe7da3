"""One phase of training: from the previous phase's EMA, or from nothing, to its last step (§5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmface.config import Recipe
from mmface.errors import RecipeError
from mmface.model import MMFaceDiT
from mmface.objectives import make_objective
from mmface.train.batches import Draws, TrainingSet
from mmface.train.ema import EMA
from mmface.train.gauges import Gauges
from mmface.train.optim import learning_rate, make_optimizer, set_learning_rate
from mmface.train.state import TRANSFORMER, TrainState, load_checkpoint
from mmface.train.step import GlobalLosses, World, backward


@dataclass(frozen=True)
class Hooks:
    """What the caller does with a run's results.

    Attributes:
        on_log: gets each entry of the history; called on rank 0 only.
        on_checkpoint: gets the state after every ``checkpoint_every`` steps and the last; called on every rank, so
            that it may be a barrier.
        on_preview: gets the step and a PNG (:meth:`mmface.train.previews.Previews.sheet`); called on rank 0 only, but
            given on every rank or on none. Without it nothing is painted.
    """

    on_log: Callable[[dict[str, float]], None]
    on_checkpoint: Callable[[TrainState], None]
    on_preview: Callable[[int, bytes], None] | None = None


def train_phase(
    recipe: Recipe,
    index: int,
    data: TrainingSet,
    *,
    hooks: Hooks,
    world: World | None = None,
    run: str = "",
    previous: Path | None = None,
    resume: Path | None = None,
    held_out: TrainingSet | None = None,
) -> TrainState:
    """Trains phase ``index`` of the recipe to its last step.

    Args:
        data: the phase's training rows.
        hooks: where figures and checkpoints go.
        world: the process group, already set up if it has several ranks; by default this process alone on the CPU.
        run: identity of the run, kept in its checkpoints.
        previous: folder that holds the previous phase's ``transformer/``; without it the weights are drawn from the
            recipe's seed.
        resume: checkpoint of this run to go on from.
        held_out: rows whose loss is measured and that are painted, as the recipe's ``watch`` says.

    Raises:
        TrainingError: a loss or gradient is not finite, or the loss explodes (names step, sample ids and the last good
            checkpoint; nothing of that step is applied), or the checkpoint is another run's.
        RecipeError: a micro-batch has fewer samples than there are workers, ``previous`` is another architecture, or
            there is no held-out row to paint.
    """
    world = world or World()
    phase, train = recipe.phases[index], recipe.train
    if phase.batch_size // phase.accumulation < world.size:
        raise RecipeError(f"fewer samples in a micro-batch than the {world.size} workers", field=f"phases.{index}")
    state = make_state(recipe, data, world, run=run, previous=previous)
    if resume is not None:
        load_checkpoint(state, resume)
    transformer = _distributed(state.model, world)
    objective = make_objective(**recipe.objective.model_dump())
    draws = Draws(recipe.seed, index, phase.batch_size, train.condition_dropout, train.text_dropout)
    slots = world.slots(phase.batch_size, phase.accumulation)
    steps = phase.total_steps(len(data))
    gauges = Gauges(recipe, draws, data, held_out, hooks, world, state.step)

    while state.step < steps:
        with gauges.clock.waiting():
            batches = [draws.batch(data, state.step, some) for some in slots]
        losses = backward(transformer, objective, batches, phase.batch_size, train, world)
        gauges.check(state, losses)
        rate = learning_rate(state.step, phase, steps)
        apply(state, losses, rate)
        gauges.read(state, rate)
        if state.step == steps or state.step % train.checkpoint_every == 0:
            hooks.on_checkpoint(state)
            gauges.saved = state.step
    return state


def apply(state: TrainState, losses: GlobalLosses, rate: float) -> None:
    """Steps the optimizer over the gradient that :func:`~mmface.train.step.backward` left, then the average."""
    set_learning_rate(state.optimizer, rate)
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.ema.update(state.step)
    state.meter.add(losses)
    state.step += 1


def make_state(
    recipe: Recipe, data: TrainingSet, world: World, *, run: str = "", previous: Path | None = None
) -> TrainState:
    """A run before its first step; equal on every rank."""
    model = build_transformer(recipe, data, previous)
    nn.Module.to(model, world.device)
    model.train()
    if recipe.train.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    return TrainState(
        run=run,
        rows=len(data),
        model=model,
        ema=EMA(model, recipe.train.ema_decay),
        optimizer=make_optimizer(model.parameters(), recipe.train),
    )


def build_transformer(recipe: Recipe, data: TrainingSet, previous: Path | None) -> MMFaceDiT:
    """The recipe's transformer for the channels and text width of the data.

    Raises:
        RecipeError: ``previous`` is not this architecture.
    """
    wanted = {"in_channels": 2 * data.latent_channels, "text_embed_dim": data.text_width, **recipe.model.model_dump()}
    if previous is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            fresh: MMFaceDiT = MMFaceDiT(**wanted)
        return fresh
    model: MMFaceDiT = MMFaceDiT.from_pretrained(
        previous / TRANSFORMER, use_safetensors=True, low_cpu_mem_usage=False, torch_dtype=torch.float32
    )
    differing = [name for name, value in wanted.items() if model.config[name] != value]
    if differing:
        name = differing[0]
        raise RecipeError(
            f"this phase wants {wanted[name]}, but the weights it starts from have {model.config[name]}",
            field=f"model.{name}",
        )
    return model


def _distributed(model: MMFaceDiT, world: World) -> nn.Module:
    # Weights without gradient (§4, last block) are frozen in the model, so DDP does not wait for them.
    if world.size == 1:
        return model
    devices = [world.device] if world.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)
