"""One phase of training: from the weights it starts from to its last step (§5)."""

from __future__ import annotations

from pathlib import Path

from mmface.config import Recipe
from mmface.errors import RecipeError
from mmface.objectives import make_objective
from mmface.train.checkpoints.state import TrainState, load_checkpoint
from mmface.train.ema import EMA
from mmface.train.hooks import Hooks
from mmface.train.instruments import Gauges
from mmface.train.optim import learning_rate, make_optimizer, set_learning_rate
from mmface.train.parallel.ranks import together
from mmface.train.parallel.world import World
from mmface.train.placement import place, wrap
from mmface.train.rows.balance import mix
from mmface.train.rows.batches import Draws
from mmface.train.rows.sets import TrainingSet
from mmface.train.start import build_transformer
from mmface.train.step import GlobalLosses, backward


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
        previous: folder that holds the previous phase's ``transformer/``; without it ``train.start`` says where the
            weights come from.
        resume: checkpoint of this run to go on from.
        held_out: rows whose loss is measured and that are painted, as the recipe's ``watch`` says.

    Raises:
        TrainingError: a loss or gradient is not finite, or the loss explodes (names step, sample ids and the last good
            checkpoint; nothing of that step is applied), or the checkpoint is another run's.
        RecipeError: a micro-batch has fewer samples than there are workers, there is no held-out row to paint,
            ``train.balance`` does not fit the rows, or see :func:`make_state`.
    """
    world = world or World()
    phase = recipe.phases[index]
    if phase.batch_size // phase.accumulation < world.size:
        raise RecipeError(f"fewer samples in a micro-batch than the {world.size} workers", field=f"phases.{index}")
    state = make_state(recipe, data, world, run=run, previous=previous)
    if resume is not None:
        load_checkpoint(state, resume)
    advance(state, recipe, index, data, hooks, world, held_out)
    return state


def advance(
    state: TrainState,
    recipe: Recipe,
    index: int,
    data: TrainingSet,
    hooks: Hooks,
    world: World,
    held_out: TrainingSet | None = None,
) -> None:
    """Trains from where ``state`` stands to the phase's last step; see :func:`train_phase`."""
    phase, train = recipe.phases[index], recipe.train
    transformer = wrap(state.model, world)
    objective = make_objective(**recipe.objective.model_dump())
    mixture = mix(data.sources, train.balance)
    draws = Draws(recipe.seed, index, phase.batch_size, train.condition_dropout, train.text_dropout, mixture)
    slots = world.slots(phase.batch_size)
    steps = phase.total_steps(len(data))
    gauges = together(world, lambda: Gauges(recipe, draws, data, held_out, hooks, world, state.step))

    while state.step < steps:
        with gauges.clock.waiting():
            batches = draws.batch(data, state.step, slots).split(phase.accumulation)
        losses = backward(transformer, objective, batches, phase.batch_size, train, world)
        gauges.check(state, losses)
        rate = learning_rate(state.step, phase, steps)
        apply(state, losses, rate)
        gauges.read(state, rate)
        if state.step == steps or state.step % train.checkpoint_every == 0:
            hooks.on_checkpoint(state)
            gauges.saved = state.step


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
    """A run before its first step; equal on every rank.

    Raises:
        RecipeError: see :func:`~mmface.train.start.build_transformer`,
            :func:`~mmface.train.placement.place` and :func:`~mmface.train.optim.make_optimizer`.
    """
    model = together(world, lambda: build_transformer(recipe, data, previous))
    model.train()
    ema = EMA(model, recipe.train.ema_decay)
    place(model, ema.module, recipe.train, world)
    optimizer = make_optimizer(model.parameters(), recipe.train)
    return TrainState(run=run, rows=len(data), model=model, ema=ema, optimizer=optimizer)
