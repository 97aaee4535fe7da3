"""Job: one phase of training under Ray Train, from its datasets to a published ``train-<i>-<px>``.

The loop and its checkpoints are ``mmface.train``; Ray gives them workers (:mod:`ray_jobs.shared.trainer`) and
restarts, and itself keeps nothing. A run is named by stage and fingerprint, and whatever starts it again, a worker
group after a loss or another driver, goes on from its newest checkpoint.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from mmface import plan
from mmface.bundles import tracking
from mmface.config import Recipe
from mmface.datasets.dataset import Publisher, open_dataset, published
from mmface.datasets.manifest import Identity
from mmface.errors import DatasetError, InputError, MMFaceError, RecipeError, TrainingError
from mmface.store import Store
from mmface.store.scratch import scratch_folder
from ray_jobs.shared.instruments import Progress
from ray_jobs.shared.job import JobArguments, connect_ray, parse_arguments, run_as_program
from ray_jobs.shared.trainer import Work, start_key, train_worker

if TYPE_CHECKING:
    from ray.train import Result, ScalingConfig

    from mmface.train.checkpoints.run import Checkpoints

log = logging.getLogger(__name__)

MAX_FAILURES = 3  # restarts after lost workers without a new checkpoint; our own errors are final at once


def main(argv: Sequence[str] | None = None) -> str:
    """Trains ``--phase`` to its end and publishes its EMA weights and history; returns the dataset's URI."""
    job = parse_arguments("train", argv, needs=["latents", "text"])
    if job.phase and "previous" not in job.inputs:
        raise InputError(f"phase {job.phase} starts from phase {job.phase - 1}: --inputs previous=URI", field="inputs")
    identity = plan.train(job.recipe, job.phase, job.inputs["latents"], job.inputs["text"], job.inputs.get("previous"))
    found = published(job.home, identity)
    work = make_work(job, identity)
    if not found:
        check_inputs(job)
        connect_ray()
        publisher = Publisher(job.home, identity)
        found = publish(publisher, work.checkpoints(), fit(work), job.recipe)
    # What the run kept for going on is of no more use.
    work.checkpoints().remove()
    return found


def make_work(job: JobArguments, identity: Identity) -> Work:
    """The run of ``identity``."""
    uri = tracking.tracking_uri() if job.mlflow_run else None
    run = f"{identity.stage}-{identity.fingerprint}"
    return Work(job.recipe, job.phase, dict(identity.inputs), run, job.home.uri, job.mlflow_run, uri)


def check_inputs(job: JobArguments) -> None:
    """Refuses what cannot be trained on before a worker is started.

    Raises:
        DatasetError: an input was never published, or is not what this phase reads, or was made by another VAE or text
            encoder than the recipe's, as far as their shapes are known here.
        RecipeError: some number of workers that ``train.min_workers`` allows could not share the optimizer's state.
    """
    phases = job.recipe.phases
    wanted = {"latents": f"latents-{phases[job.phase].resolution}", "text": "text"}
    if job.phase:
        wanted["previous"] = f"train-{job.phase - 1}-{phases[job.phase - 1].resolution}"
    for name, stage in wanted.items():
        dataset = open_dataset(job.inputs[name])
        if dataset.manifest.stage != stage:
            message = f"phase {job.phase} reads {stage}, but {dataset.uri} is {dataset.manifest.stage}"
            raise DatasetError(message, field=f"inputs.{name}")
    for name, uri, found, expected in _shapes(job):
        if found != expected:
            message = f"the recipe's {name} makes {expected}, but {uri} has {found}; prepare it with this recipe"
            raise DatasetError(message, field=f"components.{name}")
    check_sizes(job.recipe)


def check_sizes(recipe: Recipe) -> None:
    """Looks at every number of workers that an elastic run may come to; one that it cannot go on with would be its end.

    Raises:
        RecipeError: see :func:`mmface.train.placement.require_whole_blocks`.
    """
    from mmface.estimate.shapes import Shapes
    from mmface.train.placement import require_whole_blocks

    with suppress(InputError):  # of a component whose shape is not known here
        model = Shapes(recipe).transformer
        for size in range(recipe.train.min_workers or recipe.train.num_workers, recipe.train.num_workers + 1):
            require_whole_blocks(model, recipe.train, size)


def _shapes(job: JobArguments) -> Iterator[tuple[str, str, list[int], list[int]]]:
    """Component, dataset, its shape, the shape that the component gives."""
    from mmface.estimate.shapes import Shapes

    shapes = Shapes(job.recipe)
    with suppress(InputError):
        expected = list(shapes.latent(job.recipe.phases[job.phase].resolution))
        yield "vae", job.inputs["latents"], open_dataset(job.inputs["latents"]).manifest.extra["latent_shape"], expected
    with suppress(InputError):
        width = [shapes.text_width]
        found = open_dataset(job.inputs["text"]).manifest.extra["text_shape"][-1:]
        yield "text_encoder", job.inputs["text"], found, width


def fit(work: Work) -> int:
    """Trains the run, or the rest of it, to its last step; returns that step.

    A group that lost a worker starts anew, with fewer workers where the recipe allows it. ``MAX_FAILURES`` counts
    losses in a row: with a new checkpoint between them the run may lose any number.

    Raises:
        TrainingError: the loss is not finite or explodes, a checkpoint could not be kept, or workers die
            again and again.
        RecipeError, DatasetError: see :func:`mmface.train.loop.train_phase` and ``load_sets``.
    """
    from ray.exceptions import RayError
    from ray.train import TrainingFailedError

    home, checkpoints = Store(work.home), work.checkpoints()
    with Progress(home, work.run).shown(), Progress(home, start_key(work)).shown():
        while True:
            before = checkpoints.latest()
            try:
                answer = fit_once(work).return_value
                break
            except (TrainingFailedError, RayError) as error:
                reason = str(error).strip().splitlines()[-1]
                if checkpoints.latest() == before:
                    message = f"{reason}; run again to go on from the last checkpoint"
                    raise TrainingError(message, field=work.run) from error
                log.warning("%s: workers were lost (%s); it goes on from its newest checkpoint", work.run, reason)
    if isinstance(answer, MMFaceError):
        raise answer
    assert isinstance(answer, int), "a finished run says its last step"
    return answer


def fit_once(work: Work) -> Result:
    """One Ray Train run; it outlives up to ``MAX_FAILURES`` lost worker groups."""
    from ray.train import FailureConfig, RunConfig
    from ray.train.torch import TorchTrainer

    scaling, threads = share_out(work.recipe)
    # Ray Train wants a place for checkpoints reported to it; none are.
    with tempfile.TemporaryDirectory(prefix="mmface-") as unused:
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"work": replace(work, threads=threads)},
            scaling_config=scaling,
            run_config=RunConfig(
                name=work.run, storage_path=unused, failure_config=FailureConfig(max_failures=MAX_FAILURES)
            ),
        )
        return trainer.fit()


def publish(publisher: Publisher, checkpoints: Checkpoints, step: int, recipe: Recipe) -> str:
    """The EMA weights and history of the checkpoint of ``step``, and the recipe, as a dataset.

    The manifest keeps the checksums of what is not published, so that runs can be compared to the last bit.

    Raises:
        TrainingError: the checkpoint is damaged.
    """
    from mmface.train.checkpoints.state import HISTORY, TRANSFORMER, UNPUBLISHED, read_summary

    with scratch_folder() as scratch:
        folder = scratch / "checkpoint"
        try:
            record = checkpoints.record(step)
            checkpoints.fetch(record, folder, without=UNPUBLISHED)
        except DatasetError as error:
            message = f"{error.message}; run again to go on from the checkpoint before it"
            raise TrainingError(message, field=error.field) from error
        summary = read_summary(folder)
        publisher.store.upload(folder / TRANSFORMER, TRANSFORMER)
        publisher.write(HISTORY, (folder / HISTORY).read_bytes())
    publisher.write("recipe.yaml", recipe.to_yaml().encode())
    checksums = {file.path: file.sha256 for file in record.files if file.path in UNPUBLISHED}
    counts = {"rows": summary["rows"], "steps": summary["steps"]}
    return publisher.publish(counts, extra={**summary, "checkpoint": checksums})


def share_out(recipe: Recipe) -> tuple[ScalingConfig, int | None]:
    """Resources of each worker, and its threads; GPU workers keep torch's own choice of threads.

    Without a GPU every worker gets an equal share of the machines, whole on one machine. Of that share it reserves
    what is free now, so that a small service beside it does not keep it waiting for ever.

    Raises:
        RecipeError: more workers than CPUs, or than GPUs where those are asked for.
    """
    import ray
    from ray.train import ScalingConfig

    most = recipe.train.num_workers
    least = recipe.train.min_workers or most
    workers = most if recipe.train.min_workers is None else (least, most)
    if recipe.train.use_gpu:
        gpus = ray.cluster_resources().get("GPU", 0.0)
        if gpus < least and not recipe.jobs.autoscaling:
            message = f"{least} workers with a GPU each, but Ray has {gpus:g}; set it to false, or jobs.autoscaling"
            raise RecipeError(message, field="train.use_gpu")
        return ScalingConfig(num_workers=workers, use_gpu=True), None
    machines = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    shares = ((number, share) for number in range(most, least - 1, -1) for share in range(max(machines), 0, -1))
    fitting = (share for number, share in shares if sum(cpus // share for cpus in machines) >= number)
    threads = next(fitting, None)
    if threads is None:
        raise RecipeError(f"{least} workers, but Ray has {sum(machines)} CPUs", field="train.num_workers")
    free = int(ray.available_resources().get("CPU", 0)) // most
    return ScalingConfig(num_workers=workers, resources_per_worker={"CPU": max(1, min(threads, free))}), threads


if __name__ == "__main__":
    run_as_program(main)
