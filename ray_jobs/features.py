"""Job that embeds every photograph of an ``images`` dataset; rows of an earlier dataset are reused."""

from __future__ import annotations

from collections.abc import Sequence

from mmface import plan
from mmface.datasets.part_worker import PartWorker
from ray_jobs.shared.job import parse_arguments, run_as_program, run_stage


def main(argv: Sequence[str] | None = None) -> str:
    """Runs the stage; returns the dataset's URI."""
    job = parse_arguments("features", argv, needs=["images"]).pinned()
    identity = plan.features(job.recipe, job.inputs["images"])

    def make() -> PartWorker:
        from mmface.data.embeddings import Features

        return PartWorker(identity, job.home, Features(job.recipe))

    return run_stage(identity, job.home, make, job.recipe)


if __name__ == "__main__":
    run_as_program(main)
