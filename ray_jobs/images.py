"""Job: photographs to the ``images`` dataset — decoded once, hashed, deduplicated, split."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict

from mmface import stages
from mmface.config import Recipe
from mmface.data.audit import Seen, audit_splits, duplicates
from mmface.data.records import IMAGES
from mmface.data.sources import Images, SourceFile, list_collection
from mmface.data.stage import Row
from mmface.dataset import File, Identity, Publisher
from mmface.parts import DATA, PartWorker, check_budget, commit, receipt_of, reconcile
from mmface.reuse import gather
from mmface.storage import Store
from mmface.tables import read_table
from ray_jobs._common import exactly_once, parse_arguments, run_parts

log = logging.getLogger(__name__)

READ = "work/read"


class Reader(PartWorker):
    """Reads one part of the collection into ``work/read``; duplicates are decided over all parts later."""

    folder = READ
    key = "uri"  # the id is not known before a file is read

    def __init__(self, identity: Identity, store: Store, recipe: Recipe, files: dict[str, list[SourceFile]]) -> None:
        super().__init__(identity, store, Images(recipe.source, recipe.data))
        self.files = files
        self.source = recipe.source.images

    def rows(self, part: str, columns: Sequence[str] = ()) -> list[Row]:
        """The files of ``part`` as they were listed."""
        return [{**asdict(file), "uri": f"{self.source}/{file.key}"} for file in self.files[part]]


def main(argv: Sequence[str] | None = None) -> str:
    """Reads what is missing, drops duplicates, publishes; returns the dataset's URI."""
    job = parse_arguments("images", argv)
    recipe = job.recipe
    identity = stages.images(recipe)

    def work(publisher: Publisher) -> str:
        collection = list_collection(recipe.source).files
        size = recipe.data.shard_rows
        starts = range(0, len(collection), size)
        files = {f"part-{i // size:05d}.parquet": list(collection[i : i + size]) for i in starts}

        def make() -> Reader:
            return Reader(identity, job.home, recipe, files)

        gather(job.home, identity)
        run_parts(publisher, list(files), make, recipe.data.workers, folder=READ)
        tally = reconcile(publisher, list(files), READ)
        kept, dropped = _drop_duplicates(publisher, list(files), recipe)
        out = sum(file.rows or 0 for file in kept)
        counts = tally.counts | {"in": len(collection), "out": out, "duplicates": dropped}
        check_budget(publisher, counts, recipe.data.max_quarantined)
        return publisher.publish(counts, extra=tally.extra, files=kept)

    return exactly_once(job.home, identity, work)


def _drop_duplicates(publisher: Publisher, parts: Sequence[str], recipe: Recipe) -> tuple[list[File], int]:
    """Writes ``data/`` from what was read without duplicates; its files and the number of rows dropped."""
    store = publisher.store
    seen = []
    for part in parts:
        with store.open(f"{READ}/{part}") as file:
            rows = read_table(file, ["id", "uri", "perceptual_hash", "split"]).to_pylist()
        seen.extend(Seen(**row) for row in rows)
    bits = recipe.data.near_duplicate_bits
    dropped = duplicates(seen, bits)
    for uri, twin in sorted(dropped.items()):
        log.info("images: %s is a duplicate of %s", uri, twin)
    audit_splits((row for row in seen if row.uri not in dropped), bits)
    finished = publisher.finished(DATA)
    for part in parts:
        if f"{DATA}/{part}" not in finished:
            with store.open(f"{READ}/{part}") as file:
                rows = read_table(file).to_pylist()
            commit(store, f"{DATA}/{part}", [row for row in rows if row["uri"] not in dropped], IMAGES)
    return [receipt_of(store, f"{DATA}/{part}").file for part in parts], len(dropped)


if __name__ == "__main__":
    print(main())
