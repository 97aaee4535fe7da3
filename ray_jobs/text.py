"""Job that encodes every caption, and the empty prompt, with the text encoder."""

from __future__ import annotations

from collections.abc import Sequence

from safetensors.numpy import load

from mmface import plan
from mmface.datasets.part_worker import PartWorker
from mmface.datasets.records import EMPTY_FILE
from mmface.store import Store
from ray_jobs.shared.job import parse_arguments, run_as_program, run_stage


def main(argv: Sequence[str] | None = None) -> str:
    """Runs the stage; returns the dataset's URI."""
    job = parse_arguments("text", argv, needs=["captions"]).pinned()
    identity = plan.text(job.recipe, job.inputs["captions"])

    def make() -> PartWorker:
        from mmface.data.text import Text

        stage = Text(job.recipe)
        worker = PartWorker(identity, job.home, stage)
        stage.write_empty(worker.publisher.store)
        return worker

    def shape(store: Store) -> dict[str, list[int]]:
        sequence = load(store.read(EMPTY_FILE))["sequence"]
        return {"text_shape": [job.recipe.data.captions_per_image, *sequence.shape]}

    return run_stage(identity, job.home, make, job.recipe, extra=shape)


if __name__ == "__main__":
    run_as_program(main)
