"""Job that paints the rows of an evaluation set: with a trained transformer, or with a bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmface import plan
from mmface.bundles.weights import bundle_identity
from mmface.config import Recipe
from mmface.datasets.dataset import Publisher, open_dataset
from mmface.datasets.journal import Journal
from mmface.datasets.manifest import Identity
from mmface.datasets.parts import DATA, commit
from mmface.datasets.records import SAMPLES
from mmface.datasets.stage import Row
from mmface.datasets.tally import reconcile
from mmface.errors import StageError
from mmface.store import Store
from ray_jobs.shared.job import exactly_once, parse_arguments, run_as_program, run_parts

if TYPE_CHECKING:
    from mmface.pipeline import MMFacePipeline

TRAIN, BUNDLE = "train", "bundle"  # the model is one of these inputs


class Painter:
    """Paints the samples of one part: the rows of one part of the evaluation set, from one kind of drawing."""

    def __init__(self, identity: Identity, store: Store, recipe: Recipe, model: dict[str, str]) -> None:
        from mmface.evaluate.paint import Paint
        from mmface.networks.components import accelerator

        self.store = store.child(identity.key)
        self.evalset = open_dataset(identity.inputs["evalset"])
        self.paint = Paint(recipe, load_model(recipe, model), accelerator())

    def run(self, part: str) -> int:
        """Paints the samples of ``part``; returns their number."""
        from mmface.evaluate.evalset import requests

        name, modality = split_name(part)
        rows: list[Row] = self.evalset.part(f"{DATA}/{name}").to_pylist()
        asked = [one for row in rows for one in requests(row) if one["modality"] == modality]
        with Journal(self.store, part) as journal:
            journal.enter("painting")
            samples = self.paint(asked)
        commit(self.store, f"{DATA}/{part}", samples, SAMPLES)
        return len(samples)


def main(argv: Sequence[str] | None = None) -> str:
    """Paints the missing parts, publishes the dataset and returns its URI."""
    job = parse_arguments("samples", argv, needs=["evalset"]).pinned()
    evalset = job.inputs["evalset"]
    model = {name: job.inputs[name] for name in (TRAIN, BUNDLE) if name in job.inputs}
    if not model:
        raise StageError("missing; name a train dataset, or a bundle", field="--inputs")
    if TRAIN in model:
        identity = plan.samples(job.recipe, model[TRAIN], evalset)
    else:
        identity = plan.samples_of_bundle(job.recipe, bundle_identity(model[BUNDLE]), evalset)

    def work(publisher: Publisher) -> str:
        parts = sample_parts(evalset)

        def make() -> Painter:
            return Painter(identity, job.home, job.recipe, model)

        run_parts(publisher, parts, make, job.recipe.data.workers)
        tally = reconcile(publisher, parts)
        return publisher.publish(tally.counts, files=tally.files)

    return exactly_once(job.home, identity, work)


def load_model(recipe: Recipe, model: dict[str, str]) -> MMFacePipeline:
    """The pipeline of the ``train`` dataset, or of the ``bundle``: a registered version or a folder."""
    from mmface.bundles.bundle import build_pipeline
    from mmface.bundles.weights import open_bundle

    if BUNDLE in model:
        return open_bundle(model[BUNDLE]).pipeline
    with tempfile.TemporaryDirectory() as folder:
        open_dataset(model[TRAIN]).download("transformer", Path(folder))
        return build_pipeline(recipe, folder)


def sample_parts(evalset: str) -> list[str]:
    """Names of the parts: one for each part of the evaluation set and each modality that occurs in it."""
    dataset = open_dataset(evalset)
    names = []
    for file in dataset.parts():
        kinds = dataset.part(file.path, ["modalities"])["modalities"].to_pylist()
        stem = file.path.removeprefix(f"{DATA}/").removesuffix(".parquet")
        names += [f"{stem}-{modality}.parquet" for modality in sorted({one for row in kinds for one in row})]
    return names


def split_name(part: str) -> tuple[str, str]:
    """The part of the evaluation set, and the modality, of a part of samples."""
    stem, _, modality = part.removesuffix(".parquet").rpartition("-")
    return f"{stem}.parquet", modality


if __name__ == "__main__":
    run_as_program(main)
