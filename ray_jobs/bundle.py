"""Job that makes the bundle: trained transformer, frozen components and metrics in one folder (§8)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from mmface import plan
from mmface.datasets.dataset import Publisher, open_dataset, published, upstream
from ray_jobs.shared.job import parse_arguments, run_as_program

FOLDER = "bundle"


def main(argv: Sequence[str] | None = None) -> str:
    """Assembles and publishes the bundle; returns the dataset's URI."""
    job = parse_arguments("bundle", argv, needs=["train", "scores"]).pinned()
    identity = plan.bundle(job.recipe, job.inputs["train"], job.inputs["scores"])
    found = published(job.home, identity)
    if found:
        return found

    from mmface.bundles.bundle import build_pipeline, write_bundle
    from mmface.bundles.reference import choose_preview
    from mmface.evaluate import leaks, summary
    from mmface.evaluate.scores import Scores

    scores = open_dataset(job.inputs["scores"])
    samples, evalset = (open_dataset(scores.manifest.inputs[name]) for name in ("samples", "evalset"))
    images = upstream(job.inputs["train"])["images"]
    publisher = Publisher(job.home, identity)
    with tempfile.TemporaryDirectory() as scratch:
        trained = open_dataset(job.inputs["train"]).download("transformer", Path(scratch) / "transformer")
        figures = summary.summarise(Scores.of(scores), min_frechet_n=job.recipe.metrics.min_frechet_n)
        lineage = plan.lineage(job.inputs["scores"])
        preview = choose_preview(samples)
        pipeline = build_pipeline(job.recipe, trained)
        folder = write_bundle(pipeline, Path(scratch) / FOLDER, job.recipe, lineage, summary.flat(figures), preview)
        (folder / summary.FIGURES).write_text(summary.write_figures(figures), encoding="utf-8")
        (folder / leaks.FILE).write_text(leaks.write_leaks(leaks.find_leaks(evalset, images)), encoding="utf-8")
        publisher.store.upload(folder, FOLDER)
    return publisher.publish({})


if __name__ == "__main__":
    run_as_program(main)
