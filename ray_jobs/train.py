"""Job that trains one phase under Ray Train and publishes it as the dataset ``train-<i>-<px>``.

The training loop and its checkpoints are in ``mmface.train``; Ray only provides and restarts the workers
(:mod:`ray_jobs.shared.trainer`). A run is named by stage and fingerprint. However it is restarted, by Ray after a lost
worker or by another driver, it resumes from its newest checkpoint.
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

MAX_FAILURES = 3  # restarts after lost workers without a new checkpoint; errors of the mmface tree end the run at once


def main(argv: Sequence[str] | None = None) -> str:
    """Trains the phase ``--phase``, publishes its EMA weights and history; returns the dataset's URI."""
    job = parse_arguments("train", argv, needs=["latents", "text"])
    if job.phase and "previous" not in job.inputs:
        message = f"phase {job.phase} starts from phase {job.phase - 1}; give --inputs previous=URI"
        raise InputError(message, field="inputs")
    identity = plan.train(job.recipe, job.phase, job.inputs["latents"], job.inputs["text"], job.inputs.get("previous"))
    found = published(job.home, identity)
    work = make_work(job, identity)
    if not found:
        check_inputs(job)
        connect_ray()
        publisher = Publisher(job.home, identity)
        found = publish(publisher, work.checkpoints(), fit(work), job.recipe)
    # The published dataset replaces the checkpoints.
    work.checkpoints().remove()
    return found


def make_work(job: JobArguments, identity: Identity) -> Work:
    """The settings that the workers of this training run need."""
    uri = tracking.tracking_uri() if job.mlflow_run else None
    run = f"{identity.stage}-{identity.fingerprint}"
    return Work(job.recipe, job.phase, dict(identity.inputs), run, identity.key, job.home.uri, job.mlflow_run, uri)


def check_inputs(job: JobArguments) -> None:
    """Checks the inputs and the number of workers before any worker is started.

    Raises:
        DatasetError: an input was never published, is not the stage that this phase reads, or its shapes are not those
            of the recipe's VAE or text encoder.
        RecipeError: a number of workers that ``train.min_workers`` allows cannot share the optimizer's state.
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
            message = f"the recipe's {name} makes {expected}, but {uri} has {found}; prepare the data with this recipe"
            raise DatasetError(message, field=f"components.{name}")
    check_sizes(job.recipe)


def check_sizes(recipe: Recipe) -> None:
    """Checks every number of workers that an elastic run may get: one with which it cannot resume would end the run.

    Raises:
        RecipeError: see :func:`mmface.train.placement.require_whole_blocks`.
    """
    from mmface.estimate.shapes import Shapes
    from mmface.train.placement import require_whole_blocks

    with suppress(InputError):  # the shape of a component is unknown here
        model = Shapes(recipe).transformer
        for size in range(recipe.train.min_workers or recipe.train.num_workers, recipe.train.num_workers + 1):
            require_whole_blocks(model, recipe.train, size)


def _shapes(job: JobArguments) -> Iterator[tuple[str, str, list[int], list[int]]]:
    """(component, URI of its dataset, shape in the dataset, shape that the component makes), where known."""
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
    """Trains to the last step, resuming from the newest checkpoint if there is one; returns the last step.

    If a worker is lost, all workers restart, with fewer workers if the recipe allows it. The run fails after
    ``MAX_FAILURES`` losses without a new checkpoint between them.

    Raises:
        TrainingError: the loss is not finite or explodes, a checkpoint could not be written, or workers die
            repeatedly.
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
                    message = f"{reason}; run again to resume from the newest checkpoint"
                    raise TrainingError(message, field=work.run) from error
                log.warning("%s: lost workers (%s); resuming from the newest checkpoint", work.run, reason)
    if isinstance(answer, MMFaceError):
        raise answer
    assert isinstance(answer, int), "a finished run returns its last step"
    return answer


def fit_once(work: Work) -> Result:
    """One Ray Train run, which restarts up to ``MAX_FAILURES`` times after lost workers."""
    from ray.train import FailureConfig, RunConfig
    from ray.train.torch import TorchTrainer

    scaling, threads = share_out(work.recipe)
    # Ray Train requires a place for checkpoints, but none are reported to it.
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
    """Publishes the EMA weights and history of the checkpoint at ``step``, and the recipe; returns the URI.

    The manifest also has the checksums of the checkpoint's other files, so that two runs can be compared bit by bit.

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
            message = f"{error.message}; run again to resume from the checkpoint before it"
            raise TrainingError(message, field=error.field) from error
        summary = read_summary(folder)
        publisher.store.upload(folder / TRANSFORMER, TRANSFORMER)
        publisher.write(HISTORY, (folder / HISTORY).read_bytes())
    publisher.write("recipe.yaml", recipe.to_yaml().encode())
    checksums = {file.path: file.sha256 for file in record.files if file.path in UNPUBLISHED}
    counts = {"rows": summary["rows"], "steps": summary["steps"]}
    return publisher.publish(counts, extra={**summary, "checkpoint": checksums})


def share_out(recipe: Recipe) -> tuple[ScalingConfig, int | None]:
    """Ray's resources for the workers, and the threads of each; None leaves the number of threads on GPUs to torch.

    Without GPUs every worker gets an equal share of CPUs, all on one machine. It reserves at most the CPUs that are
    free now, because Ray would wait forever for CPUs that another program, such as a small service, holds.

    Raises:
        RecipeError: more workers than CPUs, or with ``train.use_gpu`` more than GPUs.
    """
    import ray
    from ray.train import ScalingConfig

    most = recipe.train.num_workers
    least = recipe.train.min_workers or most
    workers = most if recipe.train.min_workers is None else (least, most)
    if recipe.train.use_gpu:
        gpus = ray.cluster_resources().get("GPU", 0.0)
        if gpus < least and not recipe.jobs.autoscaling:
            message = f"{least} workers need a GPU each, but Ray has {gpus:g}; set it to false, or set jobs.autoscaling"
            raise RecipeError(message, field="train.use_gpu")
        return ScalingConfig(num_workers=workers, use_gpu=True), None
    machines = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    shares = ((number, share) for number in range(most, least - 1, -1) for share in range(max(machines), 0, -1))
    fitting = (share for number, share in shares if sum(cpus // share for cpus in machines) >= number)
    threads = next(fitting, None)
    if threads is None:
        message = f"{least} workers need a CPU each, but Ray has {sum(machines)}; lower it or add CPUs"
        raise RecipeError(message, field="train.num_workers")
    free = int(ray.available_resources().get("CPU", 0)) // most
    return ScalingConfig(num_workers=workers, resources_per_worker={"CPU": max(1, min(threads, free))}), threads


if __name__ == "__main__":
    run_as_program(main)
