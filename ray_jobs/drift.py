"""Job that embeds a sample of the new photographs and one of the champion's training photographs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from mmface import plan
from mmface.config import Recipe
from mmface.data.sampled import draw
from mmface.datasets.dataset import Dataset, Publisher, open_dataset, published
from mmface.datasets.journal import Journal
from mmface.datasets.manifest import Identity
from mmface.datasets.parts import DATA, commit
from mmface.datasets.records import DRIFT
from mmface.datasets.stage import Row
from mmface.datasets.tally import reconcile
from mmface.store import Store
from ray_jobs.shared.job import exactly_once, parse_arguments, run_as_program, run_parts

SIDES = {"new": "images", "training": "training"}  # first word of a part's name: the input that has its rows


class Sampler:
    """Embeds the drawn photographs of one part, or takes their embeddings from a published ``features`` dataset."""

    def __init__(self, identity: Identity, home: Store, recipe: Recipe, parts: dict[str, list[str]]) -> None:
        self.store, self.recipe, self.parts = home.child(identity.key), recipe, parts
        self.inputs = {side: open_dataset(identity.inputs[name]) for side, name in SIDES.items()}
        self.embedded: dict[str, Dataset] = {}
        for side, dataset in self.inputs.items():
            found = published(home, plan.features(recipe, dataset.uri))
            if found:
                self.embedded[side] = open_dataset(found)

    @cached_property
    def features(self) -> Any:
        """The network, loaded when a photograph needs it."""
        from mmface.data.embeddings import Features

        return Features(self.recipe)

    def run(self, part: str) -> int:
        """Makes ``part``; returns its number of rows."""
        side, _, source = part.partition("-")
        path, wanted = f"{DATA}/{source}", set(self.parts[part])
        with Journal(self.store, part) as journal:
            rows = self._rows(self.inputs[side], path, ["id", "uri", "source"], wanted)
            if side in self.embedded:
                embedded = self._rows(self.embedded[side], path, ["id", "features"], wanted)
                quarantined: list[Row] = []
            else:
                pictures = self._rows(self.inputs[side], path, None, wanted)
                result = journal.map(self.features, pictures, "id")
                embedded, quarantined = result.rows, result.quarantined
            vectors = {row["id"]: row["features"] for row in embedded}
            made = [
                {**row, "new": side == "new", "features": vectors[row["id"]]} for row in rows if row["id"] in vectors
            ]
            commit(self.store, f"{DATA}/{part}", made, DRIFT, quarantined)
        return len(made)

    def _rows(self, dataset: Dataset, path: str, columns: list[str] | None, wanted: set[str]) -> list[Row]:
        return [row for row in dataset.part(path, columns).to_pylist() if row["id"] in wanted]


def main(argv: Sequence[str] | None = None) -> str:
    """Embeds the samples, publishes the dataset and returns its URI."""
    job = parse_arguments("drift", argv, needs=["images", "training"]).pinned()
    identity = plan.drift(job.recipe, job.inputs["images"], job.inputs["training"])

    def work(publisher: Publisher) -> str:
        drawn = draw(job.recipe, open_dataset(job.inputs["images"]), open_dataset(job.inputs["training"]))
        parts = {
            f"{side}-{source}": ids for side, sample in zip(SIDES, drawn, strict=True) for source, ids in sample.items()
        }

        def make() -> Sampler:
            return Sampler(identity, job.home, job.recipe, parts)

        run_parts(publisher, list(parts), make, job.recipe.data.workers)
        tally = reconcile(publisher, list(parts))
        return publisher.publish(tally.counts, files=tally.files)

    return exactly_once(job.home, identity, work)


if __name__ == "__main__":
    run_as_program(main)
