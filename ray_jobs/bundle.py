"""Job that makes the bundle: trained transformer, frozen components and metrics in one folder (§8)."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmface import plan
from mmface.config import Recipe
from mmface.datasets.dataset import Dataset, Publisher, open_dataset, published, upstream
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
    from mmface.evaluate import leaks
    from mmface.evaluate.deciding import summary
    from mmface.evaluate.report.card import GROUPED, Card, render_card
    from mmface.evaluate.report.evaluation import warnings_of
    from mmface.evaluate.scores import Scores

    scores = open_dataset(job.inputs["scores"])
    samples, evalset = (open_dataset(scores.manifest.inputs[name]) for name in ("samples", "evalset"))
    datasets = upstream(job.inputs["train"])
    publisher = Publisher(job.home, identity)
    with tempfile.TemporaryDirectory() as scratch:
        trained = open_dataset(job.inputs["train"]).download("transformer", Path(scratch) / "transformer")
        figures = summary.summarise(Scores.of(scores), min_frechet_n=job.recipe.metrics.min_frechet_n)
        lineage = plan.lineage(job.inputs["scores"])
        leaked = leaks.find_leaks(evalset, datasets["images"])
        pipeline = build_pipeline(job.recipe, trained)
        card = render_card(
            Card(
                recipe=job.recipe,
                lineage=lineage,
                figures=figures,
                gaps=[gap for name in GROUPED for gap in summary.by_group(Scores.of(scores), name)],
                leaks=leaked,
                parameters=sum(weight.numel() for weight in pipeline.transformer.parameters()),
                **trained_on(job.recipe, datasets),
                warnings=warnings_of(scores, evalset),
            )
        )
        given = (job.recipe, lineage, summary.flat(figures), choose_preview(samples), card)
        folder = write_bundle(pipeline, Path(scratch) / FOLDER, *given)
        (folder / summary.FIGURES).write_text(summary.write_figures(figures), encoding="utf-8")
        (folder / leaks.FILE).write_text(leaks.write_leaks(leaked), encoding="utf-8")
        publisher.store.upload(folder, FOLDER)
    return publisher.publish({})


def trained_on(recipe: Recipe, datasets: Mapping[str, Dataset]) -> dict[str, int]:
    """Optimizer steps and images of training, as its history records them."""
    from mmface.evaluate.report.chart import histories

    steps = images = 0
    for stage, _, history in histories(datasets):
        made = max((int(entry["step"]) for entry in history), default=0)
        steps, images = steps + made, images + made * recipe.phases[int(stage.split("-")[1])].batch_size
    return {"steps": steps, "images": images}


if __name__ == "__main__":
    run_as_program(main)
