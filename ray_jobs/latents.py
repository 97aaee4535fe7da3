"""Job that computes VAE moments of every photograph, mask and sketch, at all resolutions of the recipe in one pass."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial

from mmface import plan
from mmface.config import Recipe
from mmface.datasets.dataset import Publisher, open_dataset, published
from mmface.datasets.manifest import Identity
from mmface.datasets.part_worker import PartWorker
from mmface.datasets.parts import DATA, part_names, read_part
from mmface.datasets.reuse import gather
from mmface.datasets.stage import Row, Stage
from mmface.store import Store
from ray_jobs.shared.job import exactly_once, parse_arguments, publish_parts, run_as_program, run_parts

SHAPES = "work/shapes.json"  # shapes of the latents, so that the driver can publish without loading the VAE

Read = Callable[[str, tuple[str, ...]], list[Row]]


class Sized(PartWorker):
    """Makes parts at one resolution; shares the reading of rows, ``read``, with the other resolutions."""

    def __init__(self, identity: Identity, store: Store, stage: Stage, read: Read) -> None:
        super().__init__(identity, store, stage)
        self.read = read

    def rows(self, part: str, columns: Sequence[str] = ()) -> list[Row]:
        """The input rows of ``part``."""
        return self.read(part, tuple(columns))


class OnePass:
    """Makes one part at every resolution; its rows are read, and its images decoded, only once.

    Args:
        identities: the datasets by resolution; all have the same inputs.
        mark: folder of the last dataset in which an empty file marks each finished part.
    """

    def __init__(self, identities: Mapping[int, Identity], store: Store, recipe: Recipe, mark: str) -> None:
        from mmface.data.latents import Latents, Originals
        from mmface.networks.components import accelerator, load_vae

        *_, last = identities.values()
        inputs = [open_dataset(uri) for uri in last.inputs.values()]
        # Two entries: rows without images, to look for known rows, and rows with images.
        read = lru_cache(maxsize=2)(partial(read_part, inputs))
        vae = load_vae(recipe.components.vae).to(accelerator())
        self.originals = Originals(recipe.data.max_megapixels, recipe.picture_side)
        self.workers = []
        for resolution, identity in identities.items():
            stage = Latents(recipe, resolution, vae, self.originals)
            self.workers.append(Sized(identity, store, stage, read))
            store.child(identity.key).write(SHAPES, json.dumps(stage.extra()).encode())
        self.store, self.mark = store.child(last.key), mark

    def run(self, part: str) -> int:
        """Makes ``part`` at the resolutions where it is missing; returns its number of input rows."""
        missing = [worker for worker in self.workers if not worker.publisher.store.exists(f"{DATA}/{part}")]
        counts = [worker.run(part) for worker in missing]
        self.originals.forget()
        self.store.write(f"{self.mark}/{part}", b"")
        return max(counts, default=0)


def main(argv: Sequence[str] | None = None) -> list[str]:
    """Makes the resolutions that are not published yet; returns the URIs of all resolutions, smallest first."""
    job = parse_arguments("latents", argv, needs=["images", "conditions"]).pinned()
    inputs = [job.inputs[name] for name in ("images", "conditions")]
    identities = {size: plan.latents(job.recipe, size, *inputs) for size in job.recipe.resolutions}
    missing = {size: identity for size, identity in identities.items() if not published(job.home, identity)}
    if missing:
        make_missing(missing, job.home, job.recipe)
    return [job.home.child(identity.key).uri for identity in identities.values()]


def make_missing(missing: Mapping[int, Identity], store: Store, recipe: Recipe) -> None:
    """Makes all parts in one pass, then checks and publishes each dataset in order of resolution."""
    *_, last = missing.values()
    mark = f"work/pass-{'-'.join(map(str, missing))}"

    def work(publisher: Publisher) -> str:
        for identity in missing.values():
            gather(store, identity)
        parts = part_names(open_dataset(last.inputs["images"]))
        run_parts(publisher, parts, partial(OnePass, missing, store, recipe, mark), recipe.data.workers, folder=mark)
        uri = ""
        for identity in missing.values():
            uri = exactly_once(store, identity, partial(publish_size, parts, recipe))
        return uri

    exactly_once(store, last, work)


def publish_size(parts: Sequence[str], recipe: Recipe, publisher: Publisher) -> str:
    """Publishes one resolution after all its parts are finished; returns the dataset's URI."""
    return publish_parts(publisher, parts, recipe, json.loads(publisher.store.read(SHAPES)))


if __name__ == "__main__":
    run_as_program(main)
