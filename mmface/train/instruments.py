"""What is watched while a phase trains (the recipe's ``watch``): the log, the held-out loss, previews, bad steps."""

from __future__ import annotations

from mmface.config import Recipe
from mmface.errors import RecipeError
from mmface.objectives import make_objective
from mmface.train.checkpoints.state import TrainState
from mmface.train.hooks import Hooks
from mmface.train.parallel.world import World
from mmface.train.rows.batches import Draws
from mmface.train.rows.sets import TrainingSet
from mmface.train.step import GlobalLosses
from mmface.train.watch.clock import Clock, peak_flops, training_flops
from mmface.train.watch.guard import check, stopped
from mmface.train.watch.held_out import HELD_OUT, FixedRows, HeldOut
from mmface.train.watch.previews import Previews


class Gauges:
    """The instruments of one phase; every rank has them and reads them at the same steps.

    Args:
        recipe: with the phase of ``draws``.
        draws, data: what the phase trains on.
        held_out: rows to measure and to paint; ``None`` measures and paints nothing.
        hooks: where figures and pictures go.
        world: who takes part.
        start: optimizer steps done before.

    Attributes:
        clock: times the steps.
        saved: step of the last checkpoint, for whoever has to go back; kept by the loop.

    Raises:
        RecipeError: previews are wanted, but no row is held out.
        InputError: previews are wanted, but the VAE is not there.
    """

    def __init__(
        self,
        recipe: Recipe,
        draws: Draws,
        data: TrainingSet,
        held_out: TrainingSet | None,
        hooks: Hooks,
        world: World,
        start: int,
    ) -> None:
        phase, self.train, self.watch = recipe.phases[draws.phase], recipe.train, recipe.watch
        self.draws, self.data, self.hooks, self.world = draws, data, hooks, world
        self.steps = phase.total_steps(len(data))
        peak = peak_flops(self.train, world.device)
        self.clock = Clock(
            start,
            self.steps,
            phase.batch_size,
            training_flops(recipe, data),
            None if peak is None else peak * world.size,
            world.device,
        )
        self.saved = start or None
        self.held_out = self.previews = None
        if held_out is None and self.watch.preview_every:
            message = "previews are painted from held-out rows and there is none: see data.holdout, watch.held_out_rows"
            raise RecipeError(message, field="watch.preview_every")
        if held_out is not None:
            # What trains in one piece is surely judged in one.
            batch_size = max(1, phase.batch_size // phase.accumulation // world.size)
            objective = make_objective(**recipe.objective.model_dump())
            self.held_out = HeldOut(FixedRows(held_out, recipe.seed), objective, self.train, batch_size)
            if self.watch.preview_every and hooks.on_preview is not None:
                shown = FixedRows(held_out.part(slice(self.watch.preview_rows)), recipe.seed)
                self.previews = Previews(recipe, shown, world.device)

    def check(self, state: TrainState, losses: GlobalLosses) -> None:
        """Lets a step pass that may be applied.

        Raises:
            TrainingError: it may not; names the step, its samples and the last good checkpoint.
        """
        found = check(losses, state.meter.usual, self.watch.max_loss_ratio)
        if found is not None:
            fault, slots = found
            saved = self.hooks.safe() if self.hooks.safe else self.saved
            raise stopped(fault, slots, state.step, self.draws, self.data, saved)

    def read(self, state: TrainState, rate: float) -> None:
        """Logs and shows what is due after a step that was applied at learning rate ``rate``.

        A measurement of the held-out loss always makes a line of the log.
        """
        measured: dict[str, float] = {}
        every = self.watch.held_out_every or self.train.checkpoint_every
        if self.held_out is not None and self._due(state, every):
            with self.clock.aside():
                measured = self.held_out.measure(state.ema.module, self.world)
        state.held_out = measured.get(HELD_OUT)
        if measured or self._due(state, self.train.log_every):
            figures = {"step": state.step, **state.meter.means(), "lr": rate, **measured}
            state.history.append(figures | self.clock.read(state.step))
            if self.world.rank == 0:
                self.hooks.on_log(state.history[-1])
        if self.previews is not None and self._due(state, self.watch.preview_every):
            with self.clock.aside():
                self._preview(self.previews, state)

    def _due(self, state: TrainState, every: int) -> bool:
        return state.step == self.steps or state.step % every == 0

    def _preview(self, previews: Previews, state: TrainState) -> None:
        painted = previews.paint(state.ema.module)
        if self.world.rank == 0 and self.hooks.on_preview is not None:
            self.hooks.on_preview(state.step, previews.sheet(painted))
