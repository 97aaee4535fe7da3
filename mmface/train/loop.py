"""One phase of training: from the weights it starts from to its last step (§5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmface.config import Recipe
from mmface.errors import RecipeError, TrainingError
from mmface.objectives import make_objective
from mmface.train.balance import mix
from mmface.train.batches import Draws, TrainingSet
from mmface.train.ema import EMA
from mmface.train.meter import Clock
from mmface.train.optim import learning_rate, make_optimizer, set_learning_rate
from mmface.train.parallel import place, wrap
from mmface.train.start import build_transformer
from mmface.train.state import TrainState, load_checkpoint
from mmface.train.step import GlobalLosses, World, backward


@dataclass(frozen=True)
class Hooks:
    """What the caller does with a run's results.

    Attributes:
        on_log: gets each entry of the history; called on rank 0 only.
        on_checkpoint: gets the state after every ``checkpoint_every`` steps and the last; called on every rank, so
            that it may be a barrier.
    """

    on_log: Callable[[dict[str, float]], None]
    on_checkpoint: Callable[[TrainState], None]


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

    Raises:
        TrainingError: a loss or gradient is not finite (names step and sample ids; nothing of that step is applied),
            or the checkpoint is another run's.
        RecipeError: a micro-batch has fewer samples than there are workers, ``train.balance`` does not fit the rows, or
            see :func:`make_state`.
    """
    world = world or World()
    phase = recipe.phases[index]
    if phase.batch_size // phase.accumulation < world.size:
        raise RecipeError(f"fewer samples in a micro-batch than the {world.size} workers", field=f"phases.{index}")
    state = make_state(recipe, data, world, run=run, previous=previous)
    if resume is not None:
        load_checkpoint(state, resume)
    advance(state, recipe, index, data, hooks, world)
    return state


def advance(state: TrainState, recipe: Recipe, index: int, data: TrainingSet, hooks: Hooks, world: World) -> None:
    """Trains from where ``state`` stands to the phase's last step; see :func:`train_phase`."""
    phase, train = recipe.phases[index], recipe.train
    transformer = wrap(state.model, world)
    objective = make_objective(**recipe.objective.model_dump())
    mixture = mix(data.sources, train.balance)
    draws = Draws(recipe.seed, index, phase.batch_size, train.condition_dropout, train.text_dropout, mixture)
    slots = world.slots(phase.batch_size, phase.accumulation)
    steps = phase.total_steps(len(data))
    clock = Clock(state.step)

    while state.step < steps:
        with clock.waiting():
            batches = [draws.batch(data, state.step, some) for some in slots]
        losses = backward(transformer, objective, batches, phase.batch_size, train, world)
        if not losses.finite:
            raise _not_finite(state.step, losses.bad_slots, draws, data)
        rate = learning_rate(state.step, phase, steps)
        apply(state, losses, rate)

        last = state.step == steps
        if last or state.step % train.log_every == 0:
            figures = {"step": state.step, **state.meter.means(), "lr": rate}
            state.history.append(figures | clock.read(state.step, steps, phase.batch_size))
            if world.rank == 0:
                hooks.on_log(state.history[-1])
        if last or state.step % train.checkpoint_every == 0:
            hooks.on_checkpoint(state)


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
        RecipeError: see :func:`~mmface.train.start.build_transformer`, :func:`~mmface.train.parallel.place` and
            :func:`~mmface.train.optim.make_optimizer`.
    """
    model = build_transformer(recipe, data, previous)
    model.train()
    ema = EMA(model, recipe.train.ema_decay)
    place(model, ema.module, recipe.train, world)
    optimizer = make_optimizer(model.parameters(), recipe.train)
    return TrainState(run=run, rows=len(data), model=model, ema=ema, optimizer=optimizer)


def _not_finite(step: int, slots: list[int], draws: Draws, data: TrainingSet) -> TrainingError:
    ids = [data.ids[row].decode() for row in draws.rows(len(data), step, slots)]
    named = ", ".join(key[:16] for key in ids[:4]) + (f" and {len(ids) - 4} more" if len(ids) > 4 else "")
    return TrainingError(
        f"the loss is not finite at step {step + 1} (samples {named}); the last checkpoint is good: "
        "lower learning_rate or look at these samples",
        field=f"phases.{draws.phase}",
    )
