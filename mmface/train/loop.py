"""The training loop of one phase, from its starting weights or a checkpoint to its last step (§5)."""

from __future__ import annotations

from pathlib import Path

from mmface.config import Recipe
from mmface.errors import RecipeError
from mmface.objectives import make_objective
from mmface.train.checkpoints.state import TrainState, load_checkpoint
from mmface.train.ema import EMA
from mmface.train.hooks import Hooks
from mmface.train.instruments import Instruments
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
        hooks: get figures, checkpoints and previews.
        world: the ranks; the process group must already be set up if there are several. By default this process alone
            on the CPU.
        run: identity of the run, stored in its checkpoints.
        previous: folder that holds the previous phase's ``transformer/``; without it ``train.start`` names the starting
            weights.
        resume: folder of this run's checkpoint to resume from.
        held_out: rows for the held-out loss and the previews (the recipe's ``watch``).

    Raises:
        TrainingError: a loss or gradient is not finite or the loss is too large (names the step, the sample ids and
            the last good checkpoint; the step is not applied), or the checkpoint belongs to another run.
        RecipeError: a micro-batch has fewer samples than there are workers, previews have no held-out row,
            ``train.balance`` does not fit the rows, or any error of :func:`make_state`.
    """
    world = world or World()
    phase = recipe.phases[index]
    if phase.batch_size // phase.accumulation < world.size:
        message = (
            f"a micro-batch has {phase.batch_size // phase.accumulation} samples, fewer than the {world.size} workers; "
            "raise batch_size, or lower accumulation or the number of workers"
        )
        raise RecipeError(message, field=f"phases.{index}")
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
    until: int | None = None,
) -> None:
    """Trains from ``state.step`` to the phase's last step, or to step ``until`` before it; see :func:`train_phase`."""
    phase, train = recipe.phases[index], recipe.train
    transformer = wrap(state.model, world)
    objective = make_objective(**recipe.objective.model_dump())
    mixture = mix(data.sources, train.balance)
    draws = Draws(recipe.training_seed, index, phase.batch_size, train.condition_dropout, train.text_dropout, mixture)
    slots = world.slots(phase.batch_size)
    steps = phase.total_steps(len(data))
    instruments = together(world, lambda: Instruments(recipe, draws, data, held_out, hooks, world, state.step))
    end = steps if until is None else min(until, steps)

    while state.step < end:
        with instruments.clock.waiting():
            batches = draws.batch(data, state.step, slots).split(phase.accumulation)
        losses = backward(transformer, objective, batches, phase.batch_size, train, world)
        instruments.check(state, losses)
        rate = learning_rate(state.step, phase, steps)
        apply(state, losses, rate)
        instruments.read(state, rate)
        if state.step == steps or state.step % train.checkpoint_every == 0:
            hooks.on_checkpoint(state)
            instruments.saved = state.step


def apply(state: TrainState, losses: GlobalLosses, rate: float) -> None:
    """Applies the gradient left by :func:`~mmface.train.step.backward`: updates the weights, then their average."""
    set_learning_rate(state.optimizer, rate)
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.ema.update(state.step)
    state.meter.add(losses)
    state.step += 1


def make_state(
    recipe: Recipe, data: TrainingSet, world: World, *, run: str = "", previous: Path | None = None
) -> TrainState:
    """The state of a run before its first step; equal on every rank.

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
