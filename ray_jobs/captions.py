"""Job: writes the captions of every photograph."""

from __future__ import annotations

from collections.abc import Sequence

from mmface import plan
from mmface.datasets.dataset import Publisher, open_dataset
from mmface.datasets.part_worker import PartWorker
from mmface.datasets.parts import part_names
from mmface.datasets.reuse import gather
from ray_jobs.shared.job import exactly_once, parse_arguments, run_as_program, run_stage
from ray_jobs.shared.vllm import Questions, RecordedWorker, record_answers, require_vllm, vllm


def main(argv: Sequence[str] | None = None) -> str:
    """Runs the stage; returns the dataset's URI."""
    job = parse_arguments("captions", argv, needs=["images", "conditions"]).pinned()
    recipe = job.recipe
    identity = plan.captions(recipe, job.inputs["images"], job.inputs["conditions"])
    recorded = recipe.captioning.engine == "vllm" and recipe.components.captioner != "facts"

    def make() -> PartWorker:
        if recorded:
            return RecordedWorker(identity, job.home, recipe)
        from mmface.data.captions import Captions

        return PartWorker(identity, job.home, Captions(recipe))

    def work(publisher: Publisher) -> str:
        if recorded:
            require_vllm()
            parts = part_names(open_dataset(job.inputs["images"]))
            gather(job.home, identity)
            ask = vllm(Questions(identity, job.home, recipe))
            record_answers(publisher, parts, 1 + recipe.captioning.retries, ask)
        return run_stage(identity, job.home, make, recipe)

    return exactly_once(job.home, identity, work)


if __name__ == "__main__":
    run_as_program(main)
