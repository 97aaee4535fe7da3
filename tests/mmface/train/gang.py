"""Runs the training loop in several processes without Ray: workers in a gloo group that return results as files."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor

from mmface.config import Recipe
from mmface.model import predict
from mmface.train.checkpoints.state import TrainState
from mmface.train.hooks import Hooks
from mmface.train.loop import advance, make_state
from mmface.train.parallel.world import World
from mmface.train.placement import full_state, load_full_state
from mmface.train.rows.batches import Batch, Draws
from mmface.train.rows.sets import TrainingSet


@dataclass(frozen=True)
class Job:
    """One run of the loop.

    Attributes:
        start: file of an outcome to resume from.
        stop: step after which to stop; by default the phase's last.
        look: evaluate the model and its average at every checkpoint, like held-out losses and previews.
    """

    name: str
    recipe: Recipe
    start: Path | None = None
    stop: int | None = None
    look: bool = False


@dataclass(frozen=True)
class Outcome:
    """The state at the end of a run, and the batches that it drew.

    Attributes:
        full: result of :func:`mmface.train.placement.full_state`.
        drawn: (step, slot) → row id and hash of the noise, of all ranks.
        file: path of the outcome.
    """

    step: int
    full: dict[str, dict[str, Any]]
    history: list[dict[str, float]]
    drawn: dict[tuple[int, int], tuple[str, str]]
    file: Path

    def weights(self, part: str = "model") -> dict[str, Tensor]:
        return self.full[part]


class Stopped(Exception):
    pass


def run(job: Job, data: TrainingSet, world: World, folder: Path) -> None:
    """Runs a job and writes its outcome into ``folder``. Every rank calls it."""
    drawn: dict[tuple[int, int], tuple[str, str]] = {}
    state = make_state(job.recipe, data, world)
    if job.start:
        begun = read_outcome(job.start)
        load_full_state(state.model, state.ema.module, state.optimizer, begun.full)
        state.step = begun.step

    def on_checkpoint(state: TrainState) -> None:
        if job.look:
            one = Draws(0, 0, 1, 0.0, 0.0).batch(data, 0, [0])
            for module in (state.model, state.ema.module):
                with torch.no_grad():
                    assert predict(module, one.noise, one.uniform, one.conditioning).isfinite().all()
        if state.step == job.stop:
            raise Stopped

    original = Draws.batch

    def batch(draws: Draws, data: TrainingSet, step: int, slots: list[int]) -> Batch:
        made = original(draws, data, step, slots)
        for slot, key, noise in zip(slots, made.ids, made.noise, strict=True):
            drawn[step, slot] = key, hashlib.sha256(noise.numpy().tobytes()).hexdigest()
        return made

    Draws.batch = batch  # type: ignore[method-assign]
    try:
        if state.step != job.stop:
            advance(state, job.recipe, 0, data, Hooks(lambda entry: None, on_checkpoint), world)
    except Stopped:
        pass
    finally:
        Draws.batch = original  # type: ignore[method-assign]
    everyone: list[Any] = [drawn]
    if world.size > 1:
        everyone = [None] * world.size
        dist.all_gather_object(everyone, drawn)
    full = full_state(state.model, state.ema.module, state.optimizer)
    if world.rank == 0:
        file = folder / f"{job.name}.pt"
        together = {key: value for part in everyone for key, value in part.items()}
        torch.save({"step": state.step, "full": full, "history": state.history, "drawn": together}, file)


def read_outcome(file: Path) -> Outcome:
    return Outcome(**torch.load(file, weights_only=True), file=file)


def run_all(size: int, jobs: list[Job], data: TrainingSet, folder: Path) -> dict[str, Outcome]:
    """Runs jobs one after another on ``size`` workers: one worker in this process, several in new processes."""
    folder.mkdir()
    if size == 1:
        for job in jobs:
            run(job, data, World(), folder)
    else:
        # Workers are forked from a server that has imported everything, so that they start fast.
        multiprocessing.set_forkserver_preload(
            ["mmface.train.loop", "mmface.train.adam8bit", "torch.distributed.tensor"]
        )
        arguments = (size, jobs, data, folder)
        torch.multiprocessing.start_processes(_member, arguments, nprocs=size, start_method="forkserver")
    return {job.name: read_outcome(folder / f"{job.name}.pt") for job in jobs}


def _member(rank: int, size: int, jobs: list[Job], data: TrainingSet, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    try:
        with refusing_empty_tensors():
            for job in jobs:
                run(job, data, World(rank, size), folder)
    finally:
        dist.destroy_process_group()


@contextmanager
def refusing_empty_tensors() -> Iterator[None]:
    """Makes bitsandbytes refuse empty tensors on the CPU; on a GPU a kernel without elements ends the process."""
    from bitsandbytes import functional

    def refusing(update: Callable[..., None]) -> Callable[..., None]:
        def checked(optimizer: str, gradient: Tensor, *rest: Any, **options: Any) -> None:
            assert gradient.numel(), "an update of no elements"
            update(optimizer, gradient, *rest, **options)

        return checked

    names = ("optimizer_update_32bit", "optimizer_update_8bit_blockwise")
    with patch.multiple(functional, **{name: refusing(getattr(functional, name)) for name in names}):
        yield


def changed(recipe: Recipe, *, phase: dict[str, Any] | None = None, **train: object) -> Recipe:
    """The recipe with other settings of the first phase and of ``train``."""
    first = recipe.phases[0].model_copy(update=phase or {})
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=train), "phases": (first,)})


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Largest difference between two weights of the same name."""
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)
