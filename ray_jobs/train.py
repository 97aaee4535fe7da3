"""Job: one phase of training under Ray Train, from its datasets to a published ``train-<i>-<px>``.

The loop is ``mmface.train``; this module gives it workers, checkpoints in the store, restarts, and the MLflow run. A
run is named by stage and fingerprint: started again, it goes on from its last checkpoint.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmface import stages, tracking
from mmface.config import Recipe
from mmface.dataset import Publisher, open_dataset, published
from mmface.errors import DatasetError, InputError, MMFaceError, RecipeError, TrainingError
from mmface.manifest import Identity
from mmface.storage import Store
from ray_jobs._common import connect_ray, parse_arguments
from ray_jobs._instruments import Progress, Tracker, describe

if TYPE_CHECKING:
    from ray.train import Checkpoint, ScalingConfig

    from mmface.train.loop import Hooks

MAX_FAILURES = 3  # restarts after lost workers; our own errors are final at once
KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class Work:
    """What a worker has to know."""

    recipe: Recipe
    phase: int
    inputs: dict[str, str]
    run: str
    home: str
    threads: int | None
    mlflow_run: str | None
    tracking_uri: str | None


def main(argv: Sequence[str] | None = None) -> str:
    """Trains ``--phase`` to its end and publishes its EMA weights and history; returns the dataset's URI."""
    job = parse_arguments("train", argv, needs=["latents", "text"])
    if job.phase and "previous" not in job.inputs:
        raise InputError(f"phase {job.phase} starts from phase {job.phase - 1}: --inputs previous=URI", field="inputs")
    identity = stages.train(
        job.recipe, job.phase, job.inputs["latents"], job.inputs["text"], job.inputs.get("previous")
    )
    found = published(job.home, identity)
    if found:
        return found
    connect_ray()
    publisher = Publisher(job.home, identity)
    run = f"{identity.stage}-{identity.fingerprint}"
    checkpoint = fit(job.recipe, job.phase, identity, run, job.home, job.mlflow_run)
    uri = publish(publisher, checkpoint, job.recipe)
    # What the run kept for going on is of no more use.
    for entry in job.home.list(f"runs/{run}"):
        job.home.delete(entry.key)
    return uri


def fit(recipe: Recipe, phase: int, identity: Identity, run: str, home: Store, mlflow_run: str | None) -> Checkpoint:
    """Runs, or goes on with, the Ray Train run ``run`` to its last step; returns its last checkpoint.

    Raises:
        TrainingError: the loss is not finite, or workers were lost more than ``MAX_FAILURES`` times.
        RecipeError, DatasetError: see :func:`mmface.train.loop.train_phase` and ``load_sets``.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    scaling, threads = share_out(recipe)
    uri = tracking.tracking_uri() if mlflow_run else None
    work = Work(recipe, phase, dict(identity.inputs), run, home.uri, threads, mlflow_run, uri)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"work": work},
        scaling_config=scaling,
        run_config=RunConfig(
            name=run,
            storage_path=home.child("runs").uri,
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
        ),
    )
    try:
        with Progress(home, run).shown():
            result = trainer.fit()
    except TrainingFailedError as error:
        reason = str(error).strip().splitlines()[-1]
        raise TrainingError(f"{reason}; run again to go on from the last checkpoint", field=run) from error
    if isinstance(result.return_value, MMFaceError):
        raise result.return_value
    assert result.checkpoint is not None, "a finished run has a last checkpoint"
    return result.checkpoint


def publish(publisher: Publisher, checkpoint: Checkpoint, recipe: Recipe) -> str:
    """The EMA weights, the history and the recipe as a dataset."""
    from mmface.train.state import HISTORY, TRANSFORMER, read_summary

    with checkpoint.as_directory() as folder:
        summary = read_summary(Path(folder))
        publisher.store.upload(Path(folder) / TRANSFORMER, TRANSFORMER)
        publisher.write(HISTORY, (Path(folder) / HISTORY).read_bytes())
    publisher.write("recipe.yaml", recipe.to_yaml().encode())
    return publisher.publish({"rows": summary["rows"], "steps": summary["steps"]}, extra=summary)


def share_out(recipe: Recipe) -> tuple[ScalingConfig, int | None]:
    """Resources of each worker, and its threads; GPU workers keep torch's own choice of threads.

    Without a GPU every worker gets an equal share of the machines, whole on one machine. Of that share it reserves
    what is free now, so that a small service beside it does not keep it waiting for ever.

    Raises:
        RecipeError: more workers than CPUs.
    """
    import ray
    from ray.train import ScalingConfig

    workers = recipe.train.num_workers
    if recipe.train.use_gpu:
        return ScalingConfig(num_workers=workers, use_gpu=True), None
    machines = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    fitting = (share for share in range(max(machines), 0, -1) if sum(cpus // share for cpus in machines) >= workers)
    threads = next(fitting, None)
    if threads is None:
        raise RecipeError(f"{workers} workers, but Ray has {sum(machines)} CPUs", field="train.num_workers")
    free = int(ray.available_resources().get("CPU", 0)) // workers
    return ScalingConfig(num_workers=workers, resources_per_worker={"CPU": max(1, min(threads, free))}), threads


def train_worker(config: dict[str, Any]) -> MMFaceError | None:
    """What runs in each worker. An error that every rank meets alike is handed back: trying again would not help."""
    import ray.train
    import torch
    from ray.train.torch import get_device

    from mmface.train.batches import load_sets
    from mmface.train.loop import train_phase
    from mmface.train.step import World

    work: Work = config["work"]
    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size(), get_device())
    if work.threads:
        torch.set_num_threads(work.threads)  # Ray allows one
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        checkpoint = ray.train.get_checkpoint()
        resume = Path(stack.enter_context(checkpoint.as_directory())) if checkpoint else None
        try:
            data, held_out = load_sets(
                open_dataset(work.inputs["latents"]),
                open_dataset(work.inputs["text"]),
                work.recipe.watch.held_out_rows,
            )
            previous = None
            if "previous" in work.inputs:
                previous = scratch / "previous"
                open_dataset(work.inputs["previous"]).download("transformer", previous / "transformer")
            hooks = make_hooks(work, world.rank, len(data), resume)
            train_phase(
                work.recipe,
                work.phase,
                data,
                hooks=hooks,
                world=world,
                run=work.run,
                previous=previous,
                resume=resume,
                held_out=held_out,
            )
        except (TrainingError, RecipeError, DatasetError, InputError) as error:
            return error
    return None


def make_hooks(work: Work, rank: int, rows: int, resume: Path | None) -> Hooks:
    """Rank 0 shows and tracks the figures and hands its checkpoints to Ray; the others keep step with it."""
    import ray.train

    from mmface.train.loop import Hooks
    from mmface.train.state import TrainState, read_history, save_checkpoint

    phases = work.recipe.phases
    offset = sum(phase.total_steps(rows) for phase in phases[: work.phase])
    steps = phases[work.phase].total_steps(rows)
    progress = Progress(Store(work.home), work.run)
    tracker = None
    if rank == 0 and work.mlflow_run and work.tracking_uri:
        tracker = Tracker(work.mlflow_run, work.tracking_uri, offset)
    known: dict[str, float] = {}  # a line of the log does not always measure the held-out loss
    for entry in read_history(resume) if resume else []:
        known.update(entry)
        if tracker:
            tracker.log(entry)

    def on_log(entry: dict[str, float]) -> None:
        known.update(entry)
        progress.write(describe(f"train {work.phase} ({phases[work.phase].resolution} px)", known, steps))
        if tracker:
            tracker.log(entry)

    def on_checkpoint(state: TrainState) -> None:
        metrics = {"step": state.step}
        if rank:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / f"step-{state.step:08d}"
            save_checkpoint(state, folder)
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def on_preview(step: int, png: bytes) -> None:
        if tracker:
            tracker.preview(step, png)

    return Hooks(on_log, on_checkpoint, on_preview if work.mlflow_run else None)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(main())
