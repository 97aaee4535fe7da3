"""Job that makes the bundle: trained transformer, frozen components and metrics in one folder (§8)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from mmface import plan
from mmface.datasets.dataset import Publisher, open_dataset, published
from ray_jobs.shared.job import parse_arguments, run_as_program

FOLDER = "bundle"


def main(argv: Sequence[str] | None = None) -> str:
    """Assembles and publishes the bundle; returns the dataset's URI."""
    job = parse_arguments("bundle", argv, needs=["train", "samples"]).pinned()
    identity = plan.bundle(job.recipe, job.inputs["train"], job.inputs["samples"])
    found = published(job.home, identity)
    if found:
        return found

    from mmface.bundles.bundle import build_pipeline, write_bundle
    from mmface.bundles.reference import choose_preview
    from mmface.evaluate.summary import summarise

    samples = open_dataset(job.inputs["samples"])
    publisher = Publisher(job.home, identity)
    with tempfile.TemporaryDirectory() as scratch:
        trained = open_dataset(job.inputs["train"]).download("transformer", Path(scratch) / "transformer")
        metrics = summarise(samples.table(), job.recipe, samples.manifest.weights["clip"])
        lineage = plan.lineage(job.inputs["samples"])
        preview = choose_preview(samples.table().to_pylist())
        pipeline = build_pipeline(job.recipe, trained)
        write_bundle(pipeline, Path(scratch) / FOLDER, job.recipe, lineage, metrics, preview)
        publisher.store.upload(Path(scratch) / FOLDER, FOLDER)
    return publisher.publish({})


if __name__ == "__main__":
    run_as_program(main)
