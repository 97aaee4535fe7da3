"""Job that measures the samples of a system."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mmface import plan
from mmface.config import Recipe
from mmface.datasets.dataset import Dataset, Publisher, open_dataset
from mmface.datasets.journal import Journal
from mmface.datasets.manifest import Identity
from mmface.datasets.parts import DATA, commit, part_names
from mmface.datasets.records import SCORES
from mmface.datasets.tally import reconcile
from mmface.errors import DatasetError
from mmface.store import Store
from ray_jobs.samples import split_name
from ray_jobs.shared.job import exactly_once, parse_arguments, run_as_program, run_parts

DRAWINGS = ["id", "mask", "sketch"]


class Scorer:
    """Measures the samples of one part."""

    def __init__(self, identity: Identity, store: Store, recipe: Recipe) -> None:
        from mmface.evaluate.measuring.score import Score
        from mmface.networks.components import accelerator

        self.store = store.child(identity.key)
        self.samples, self.evalset = (open_dataset(identity.inputs[name]) for name in ("samples", "evalset"))
        features = identity.inputs.get("features")
        trained = partial(trained_features, open_dataset(features)) if features else None
        self.score = Score(recipe, accelerator(), trained)

    def run(self, part: str) -> int:
        """Measures the samples of ``part``; returns their number."""
        name, _ = split_name(part)
        given = {row["id"]: row for row in self.evalset.part(f"{DATA}/{name}", DRAWINGS).to_pylist()}
        samples = self.samples.part(f"{DATA}/{part}").to_pylist()
        with Journal(self.store, part) as journal:
            journal.enter("scoring")
            scored = self.score([{**given[row["image_id"]], **row} for row in samples])
        commit(self.store, f"{DATA}/{part}", scored, SCORES)
        return len(scored)


def trained_features(features: Dataset) -> Iterator[NDArray[np.float32]]:
    """The embeddings [m, D] of the training photographs, part by part."""
    for file in features.parts():
        rows = features.part(file.path, ["split", "features"]).to_pylist()
        block = [np.frombuffer(row["features"], "<f4") for row in rows if row["split"] == "train"]
        if block:
            yield np.stack(block)


def main(argv: Sequence[str] | None = None) -> str:
    """Measures the missing parts, publishes the dataset and returns its URI."""
    job = parse_arguments("scores", argv, needs=["samples", "evalset"]).pinned()
    samples, evalset = job.inputs["samples"], job.inputs["evalset"]
    identity = plan.scores(job.recipe, samples, evalset, job.inputs.get("features"))

    def work(publisher: Publisher) -> str:
        from mmface.evaluate.measuring.measures import measures

        painted = open_dataset(samples)
        if painted.manifest.inputs["evalset"].rpartition("/")[2] != evalset.rpartition("/")[2]:
            message = f"{samples} was not painted for {evalset}; paint its rows first"
            raise DatasetError(message, field="samples")
        parts = part_names(painted)

        def make() -> Scorer:
            return Scorer(identity, job.home, job.recipe)

        run_parts(publisher, parts, make, job.recipe.data.workers)
        tally = reconcile(publisher, parts)
        known = {
            name: measure.model_dump()
            for name, measure in measures(job.recipe, trained="features" in identity.inputs).items()
        }
        extra = {"measures": known, "resolution": job.recipe.phases[-1].resolution}
        return publisher.publish(tally.counts, extra=extra, files=tally.files)

    return exactly_once(job.home, identity, work)


if __name__ == "__main__":
    run_as_program(main)
