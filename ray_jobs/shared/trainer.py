"""The code of a training worker: connects Ray Train with ``mmface.train``."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmface.config import Recipe
from mmface.datasets.dataset import open_dataset
from mmface.datasets.records import GUIDANCE, PREVIEWS
from mmface.errors import DatasetError, InputError, MMFaceError, RecipeError, RegistryError, ServiceError, TrainingError
from mmface.store import Store
from mmface.store.scratch import scratch_folder
from ray_jobs.shared.gauges import TrainingGauges
from ray_jobs.shared.instruments import Progress, Tracker, describe

if TYPE_CHECKING:
    from mmface.train.checkpoints.keeper import Keeper
    from mmface.train.checkpoints.run import Checkpoints
    from mmface.train.hooks import Hooks
    from mmface.train.parallel.world import World
    from mmface.train.rows.sets import TrainingSet

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """The settings of a training run that its workers need.

    Attributes:
        inputs: URIs of the datasets, by name.
        run: name of the run, by stage and fingerprint.
        dataset: key of the dataset that the run will publish; its previews are written there.
        home: URI of the home.
        mlflow_run: id of the MLflow run, if metrics are logged.
        threads: of torch in each worker; None leaves the number to torch.
    """

    recipe: Recipe
    phase: int
    inputs: dict[str, str]
    run: str
    dataset: str
    home: str
    mlflow_run: str | None
    tracking_uri: str | None
    threads: int | None = None

    def checkpoints(self) -> Checkpoints:
        """The run's checkpoints."""
        from mmface.train.checkpoints.run import Checkpoints

        return Checkpoints(Store(self.home), self.run, keep_last=self.recipe.train.keep_last)


def start_key(work: Work) -> str:
    """Name under which the run's :class:`Progress` reports from which checkpoint it resumes."""
    return f"{work.run}-start"


def train_worker(config: dict[str, Any]) -> int | MMFaceError:
    """The function that Ray Train runs in each worker; returns the last step.

    Errors that occur on every rank alike are returned, because a restart would not help. Other exceptions are raised,
    so that Ray stops all workers instead of letting the others wait.
    """
    import ray.train
    import torch
    from ray.train.torch import get_device

    from mmface.train.parallel.world import World

    work: Work = config["work"]
    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size(), get_device())
    if work.threads:
        torch.set_num_threads(work.threads)  # Ray sets one thread
    with scratch_folder() as scratch:
        try:
            return train(work, world, scratch, context.get_local_world_size())
        except (TrainingError, RecipeError, RegistryError, DatasetError, InputError) as error:
            return error


def train(work: Work, world: World, scratch: Path, neighbours: int) -> int:
    """Starts training, or resumes from the newest checkpoint, and trains to the last step, which it returns.

    Args:
        neighbours: number of workers on this machine.
    """
    from mmface.train.checkpoints.keeper import Keeper, resume
    from mmface.train.loop import train_phase
    from mmface.train.memory_check import check_memory
    from mmface.train.parallel.ranks import together

    checkpoints, folder = work.checkpoints(), scratch / "checkpoint"
    together(world, lambda: check_memory(work.recipe, work.phase, world, neighbours))
    data, held_out, previous = together(world, lambda: load_inputs(work, scratch))
    found = resume(checkpoints, world, folder)
    if found and world.rank == 0:
        Progress(Store(work.home), start_key(work)).write(f"train {work.phase}: {found} ({world.size} workers)")
    with Keeper(checkpoints, world, found.record.step if found else None) as keeper:
        hooks = together(world, lambda: make_hooks(work, world, keeper, len(data), folder if found else None))
        state = train_phase(
            work.recipe,
            work.phase,
            data,
            hooks=hooks,
            world=world,
            run=work.run,
            previous=previous,
            resume=folder if found else None,
            held_out=held_out,
        )
    return state.step


def steps_before(work: Work) -> int:
    """Number of steps of the previous phases, from their manifests, since it depends on the rows of each phase."""
    steps, uri = 0, work.inputs.get("previous")
    while uri:
        manifest = open_dataset(uri).manifest
        steps, uri = steps + int(manifest.extra["steps"]), manifest.inputs.get("previous")
    return steps


def load_inputs(work: Work, scratch: Path) -> tuple[TrainingSet, TrainingSet | None, Path | None]:
    """The training rows, the held-out rows, and the folder with the weights of the previous phase."""
    from mmface.train.rows.sets import load_sets

    rows = work.recipe.watch.held_out_rows
    data, held_out = load_sets(open_dataset(work.inputs["latents"]), open_dataset(work.inputs["text"]), rows)
    if "previous" not in work.inputs:
        return data, held_out, None
    previous = scratch / "previous"
    open_dataset(work.inputs["previous"]).download("transformer", previous / "transformer")
    return data, held_out, previous


def make_hooks(work: Work, world: World, keeper: Keeper, rows: int, resume: Path | None) -> Hooks:
    """The hooks of the training loop: rank 0 reports metrics and previews; all ranks save checkpoints together."""
    from mmface.train.checkpoints.state import read_history
    from mmface.train.hooks import Hooks

    phases = work.recipe.phases
    offset = steps_before(work)
    steps = phases[work.phase].total_steps(rows)
    progress = Progress(Store(work.home), work.run)
    gauges = TrainingGauges(work.mlflow_run or work.run, f"{work.phase}-{phases[work.phase].resolution}")
    tracker = None
    if world.rank == 0 and work.mlflow_run and work.tracking_uri:
        tracker = Tracker(work.mlflow_run, work.tracking_uri, offset)
    known: dict[str, float] = {}  # latest value of each metric; not every entry has the held-out loss
    for entry in read_history(resume) if resume else []:
        known.update(entry)
        if tracker:
            tracker.log(entry)

    def on_log(entry: dict[str, float]) -> None:
        known.update(entry)
        gauges.show(entry, steps)
        try:
            progress.write(describe(f"train {work.phase} ({phases[work.phase].resolution} px)", known, steps))
        except ServiceError as error:
            # A lost progress line must not end training; if the store stays unreachable, the next checkpoint fails.
            log.warning("cannot write the progress line: %s", error)
        if tracker:
            tracker.log(entry)

    def keep(name: str, png: bytes) -> None:
        try:
            Store(work.home).child(work.dataset).write(f"{PREVIEWS}/{name}", png)
        except ServiceError as error:
            log.warning("%s; the picture %s is not in the report", error, name)
        if tracker:
            tracker.picture(name, png)

    def on_preview(step: int, png: bytes) -> None:
        keep(f"step-{offset + step:06d}.png", png)

    def on_guidance(png: bytes) -> None:
        keep(GUIDANCE, png)

    safe = (lambda: keeper.safe) if world.rank == 0 else None
    return Hooks(on_log, keeper.save, on_preview, on_guidance, safe)
