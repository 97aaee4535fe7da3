"""Job that makes the samples of an evaluation set: painted by a trained transformer or a bundle, or read from files."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmface import plan
from mmface.bundles.weights import bundle_identity
from mmface.config import Recipe
from mmface.datasets.dataset import Dataset, Publisher, open_dataset
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

TRAIN, BUNDLE, PICTURES = "train", "bundle", "pictures"  # the system is one of these inputs


class Painter:
    """Paints the samples of one part: the rows of one part of the evaluation set, from one kind of drawing."""

    def __init__(self, identity: Identity, store: Store, recipe: Recipe, model: Mapping[str, str]) -> None:
        from mmface.evaluate.paint import Paint
        from mmface.networks.components import accelerator

        self.store = store.child(identity.key)
        self.evalset = open_dataset(identity.inputs["evalset"])
        self.paint = Paint(recipe, load_model(recipe, model), accelerator())

    def run(self, part: str) -> int:
        """Paints the samples of ``part``; returns their number."""
        asked = _requests(self.evalset, part)
        with Journal(self.store, part) as journal:
            journal.enter("painting")
            samples = self.paint(asked)
        commit(self.store, f"{DATA}/{part}", samples, SAMPLES)
        return len(samples)


class Reader:
    """Reads the samples of one part from the files of another system."""

    def __init__(self, identity: Identity, store: Store, recipe: Recipe, pictures: str) -> None:
        from mmface.evaluate.foreign import match_files, wanted_rows

        self.store, self.recipe, self.pictures = store.child(identity.key), recipe, Store(pictures)
        self.evalset = open_dataset(identity.inputs["evalset"])
        self.files, _ = match_files((entry.key for entry in self.pictures.list()), wanted_rows(self.evalset))

    def run(self, part: str) -> int:
        """Reads the images of ``part``; returns their number, 0 for a modality that the system did not paint."""
        from mmface.evaluate.foreign import open_painted
        from mmface.evaluate.inputs import read_inputs
        from mmface.evaluate.paint import sample_rows

        asked = [one for one in _requests(self.evalset, part) if one["id"] in self.files]
        size, limit = self.recipe.phases[-1].resolution, self.recipe.data.max_megapixels
        keys = [self.files[one["id"]] for one in asked]
        images = [open_painted(self.pictures.read(key), key, size, limit) for key in keys]
        rows = sample_rows(read_inputs(asked, self.recipe), images) if asked else []
        commit(self.store, f"{DATA}/{part}", rows, SAMPLES)
        return len(rows)


def main(argv: Sequence[str] | None = None) -> str:
    """Paints the missing parts, publishes the dataset and returns its URI."""
    job = parse_arguments("samples", argv, needs=["evalset"]).pinned()
    evalset = job.inputs["evalset"]
    system = {name: job.inputs[name] for name in (TRAIN, BUNDLE, PICTURES) if name in job.inputs}
    if len(system) != 1:
        raise StageError(f"name one of {TRAIN}, {BUNDLE} and {PICTURES}", field="--inputs")
    identity = identify(job.recipe, system, evalset)

    def work(publisher: Publisher) -> str:
        parts = sample_parts(evalset)

        def make() -> Painter | Reader:
            given = (identity, job.home, job.recipe)
            return Reader(*given, system[PICTURES]) if PICTURES in system else Painter(*given, system)

        run_parts(publisher, parts, make, job.recipe.data.workers)
        tally = reconcile(publisher, parts)
        return publisher.publish(tally.counts, files=tally.files)

    return exactly_once(job.home, identity, work)


def identify(recipe: Recipe, system: Mapping[str, str], evalset: str) -> Identity:
    """The identity of the samples of a system: one of the inputs ``train``, ``bundle`` and ``pictures``."""
    if TRAIN in system:
        return plan.samples(recipe, system[TRAIN], evalset)
    if BUNDLE in system:
        return plan.samples_of_bundle(recipe, bundle_identity(system[BUNDLE]), evalset)
    from mmface.evaluate.foreign import digest_files, match_files, wanted_rows

    store = Store(system[PICTURES])
    files, _ = match_files((entry.key for entry in store.list()), wanted_rows(open_dataset(evalset)))
    return plan.samples_of_pictures(recipe, digest_files(store, files), evalset)


def load_model(recipe: Recipe, model: Mapping[str, str]) -> MMFacePipeline:
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


def _requests(evalset: Dataset, part: str) -> list[Row]:
    """The requests of a part: the rows of one part of the evaluation set in one modality."""
    from mmface.evaluate.evalset import requests

    name, modality = split_name(part)
    rows: list[Row] = evalset.part(f"{DATA}/{name}").to_pylist()
    return [one for row in rows for one in requests(row) if one["modality"] == modality]


def split_name(part: str) -> tuple[str, str]:
    """The part of the evaluation set, and the modality, of a part of samples."""
    stem, _, modality = part.removesuffix(".parquet").rpartition("-")
    return f"{stem}.parquet", modality


if __name__ == "__main__":
    run_as_program(main)
