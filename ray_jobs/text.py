"""Job: every caption, and the empty prompt, through the text encoder."""

from __future__ import annotations

from collections.abc import Sequence

from mmface import stages
from mmface.dataset import published
from mmface.parts import PartWorker
from ray_jobs._common import parse_arguments, run_stage


def main(argv: Sequence[str] | None = None) -> str:
    """Runs the stage; returns the dataset's URI."""
    job = parse_arguments("text", argv, needs=["captions"])
    identity = stages.text(job.recipe, job.inputs["captions"])
    found = published(job.home, identity)
    if found:
        return found

    from mmface.data.text import EMPTY_FILE, Text

    def make() -> PartWorker:
        return PartWorker(identity, job.home, Text(job.recipe))

    empty, extra = Text(job.recipe).empty()
    return run_stage(identity, job.home, make, job.recipe, extra=extra, files={EMPTY_FILE: empty})


if __name__ == "__main__":
    print(main())
