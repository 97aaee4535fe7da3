"""Job: captions of every photograph."""

from __future__ import annotations

from collections.abc import Sequence

from mmface import stages
from ray_jobs._common import PartWorker, parse_arguments, run_stage


def main(argv: Sequence[str] | None = None) -> str:
    """Runs the stage; returns the dataset's URI."""
    job = parse_arguments("captions", argv, needs=["images", "conditions"])
    identity = stages.captions(job.recipe, job.inputs["images"], job.inputs["conditions"])

    def make() -> PartWorker:
        from mmface.data.captions import Captions

        return PartWorker(identity, job.home, Captions(job.recipe))

    return run_stage(identity, job.home, make, job.recipe)


if __name__ == "__main__":
    print(main())
