"""Job that makes the mask and the sketch of every photograph."""

from __future__ import annotations

from collections.abc import Sequence

from mmface import plan
from mmface.datasets.part_worker import PartWorker
from ray_jobs.shared.job import parse_arguments, run_as_program, run_stage


def main(argv: Sequence[str] | None = None) -> str:
    """Runs the stage; returns the dataset's URI."""
    job = parse_arguments("conditions", argv, needs=["images"]).pinned()
    identity = plan.conditions(job.recipe, job.inputs["images"])

    def make() -> PartWorker:
        from mmface.data.conditions import Conditions

        return PartWorker(identity, job.home, Conditions(job.recipe))

    return run_stage(identity, job.home, make, job.recipe)


if __name__ == "__main__":
    run_as_program(main)
