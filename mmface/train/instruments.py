"""Measurements during a phase (the recipe's ``watch``): logged figures, held-out loss, previews, check of each step."""

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


class Instruments:
    """Measures one phase. Every rank has its own and reads it at the same steps.

    Args:
        recipe: the recipe; ``draws`` says which of its phases.
        draws, data: the batches and rows that the phase trains on.
        held_out: rows for the held-out loss and the previews; ``None`` turns both off.
        hooks: get the figures and the previews.
        world: the ranks.
        start: optimizer steps done so far.

    Attributes:
        clock: measures the time of the steps.
        saved: step of the last checkpoint, for error messages; the loop sets it.

    Raises:
        RecipeError: the recipe asks for previews, but no row is held out.
        InputError: the recipe asks for previews, but the VAE cannot be loaded.
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
        self.last_phase = draws.phase == len(recipe.phases) - 1
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
            message = "previews need held-out rows, and there are none: raise data.holdout or watch.held_out_rows"
            raise RecipeError(message, field="watch.preview_every")
        if held_out is not None:
            # A micro-batch that fits into memory for training also fits for measuring.
            batch_size = max(1, phase.batch_size // phase.accumulation // world.size)
            objective = make_objective(**recipe.objective.model_dump())
            self.held_out = HeldOut(FixedRows(held_out, recipe.seed), objective, self.train, batch_size)
            if self.watch.preview_every and hooks.on_preview is not None:
                shown = FixedRows(held_out.part(slice(self.watch.preview_rows)), recipe.seed)
                self.previews = Previews(recipe, shown, world.device)

    def check(self, state: TrainState, losses: GlobalLosses) -> None:
        """Checks a step before it is applied.

        Raises:
            TrainingError: the loss is not finite or too large; names the step, samples and last good checkpoint.
        """
        found = check(losses, state.meter.usual, self.watch.max_loss_ratio)
        if found is not None:
            fault, slots = found
            saved = self.hooks.safe() if self.hooks.safe else self.saved
            raise stopped(fault, slots, state.step, self.draws, self.data, saved)

    def read(self, state: TrainState, rate: float) -> None:
        """Logs figures, measures the held-out loss and paints previews where they are due at this step.

        Called after a step was applied at learning rate ``rate``. Every measurement of the held-out loss is logged.
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
        if self.last_phase and state.step == self.steps and self.hooks.on_guidance is not None:
            sheet = previews.guidance_sheet(state.ema.module)
            if self.world.rank == 0:
                self.hooks.on_guidance(sheet)
