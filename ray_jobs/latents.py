"""Job: VAE moments of every photograph, mask and sketch at the resolution of one training phase."""

from __future__ import annotations

from collections.abc import Sequence

from mmface import stages
from mmface.dataset import published
from ray_jobs._common import PartWorker, parse_arguments, run_stage


def main(argv: Sequence[str] | None = None) -> str:
    """Runs the stage at the resolution of ``--phase``; returns the dataset's URI."""
    job = parse_arguments("latents", argv, needs=["images", "conditions"])
    resolution = job.recipe.phases[job.phase].resolution
    identity = stages.latents(job.recipe, resolution, job.inputs["images"], job.inputs["conditions"])
    found = published(job.home, identity)
    if found:
        return found

    from mmface.data.latents import Latents

    def make() -> PartWorker:
        return PartWorker(identity, job.home, Latents(job.recipe, resolution))

    return run_stage(identity, job.home, make, job.recipe, extra=Latents(job.recipe, resolution).extra())


if __name__ == "__main__":
    print(main())
