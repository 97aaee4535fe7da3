"""Job that makes the ``images`` dataset: decodes photographs once, hashes, deduplicates and splits them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow.parquet as pq

from mmface import plan
from mmface.config import Recipe
from mmface.data.audit import Seen, audit_splits, duplicates
from mmface.data.shortages import SPLITS, shortages
from mmface.data.sources.files import SourceFile
from mmface.data.sources.images import Images
from mmface.data.sources.layouts import describe, list_collections, summaries
from mmface.datasets.dataset import Publisher, open_dataset
from mmface.datasets.manifest import File, Identity
from mmface.datasets.part_worker import PartWorker
from mmface.datasets.parts import DATA, READ, commit, receipt_of
from mmface.datasets.records import IMAGES
from mmface.datasets.reuse import gather
from mmface.datasets.stage import Row
from mmface.datasets.tally import check_budget, reconcile
from mmface.errors import RecipeError
from mmface.store import Store
from mmface.store.tables import read_table
from ray_jobs.shared.job import exactly_once, parse_arguments, run_as_program, run_parts

log = logging.getLogger(__name__)

SHOWN = 5  # number of different notes in the log


class Reader(PartWorker):
    """Reads one part of the collections into ``work/read``; duplicates are removed later, over all parts."""

    folder = READ
    key = "uri"  # the id is known only after a file is read

    def __init__(self, identity: Identity, store: Store, recipe: Recipe, files: dict[str, list[SourceFile]]) -> None:
        self.images = Images(recipe.sources, recipe.data)
        self.files = files
        super().__init__(identity, store, self.images)

    def rows(self, part: str, columns: Sequence[str] = ()) -> list[Row]:
        """The listed files of ``part``."""
        return [self.images.row(file) for file in self.files[part]]


def main(argv: Sequence[str] | None = None) -> str:
    """Reads the missing parts, drops duplicates, publishes the dataset and returns its URI."""
    job = parse_arguments("images", argv)
    recipe = job.recipe
    if not recipe.sources:
        raise RecipeError("no collections; name at least one collection of photographs here", field="sources")
    # Listed only once: a file that arrives from now on belongs to the next dataset.
    listings = list_collections(recipe.sources, recipe.data.min_matched)
    identity = plan.images(recipe, job.home, listings)

    def work(publisher: Publisher) -> str:
        for line in describe(recipe.sources, listings):
            log.info("images: %s", line)
        listed = [file for listing in listings for file in listing.files]
        size = recipe.data.shard_rows
        files = {f"part-{i // size:05d}.parquet": listed[i : i + size] for i in range(0, len(listed), size)}

        def make() -> Reader:
            return Reader(identity, job.home, recipe, files)

        gather(job.home, identity)
        run_parts(publisher, list(files), make, recipe.data.workers, folder=READ)
        tally = reconcile(publisher, list(files), READ)
        kept, dropped, summary = _drop_duplicates(publisher, list(files), recipe)
        out = sum(file.rows or 0 for file in kept)
        counts = tally.counts | {"in": len(listed), "out": out, "duplicates": dropped}
        check_budget(publisher, counts, recipe.data.max_quarantined)
        extra = {**tally.extra, **summary, "sources": summaries(recipe.sources, listings)}
        return publisher.publish(counts, extra=extra, files=kept)

    uri = exactly_once(job.home, identity, work)
    for shortage in shortages(open_dataset(uri), recipe):
        log.warning("images: %s", shortage.message)
    return uri


def _drop_duplicates(
    publisher: Publisher, parts: Sequence[str], recipe: Recipe
) -> tuple[list[File], int, dict[str, Any]]:
    """Audits the rows of all parts, then writes them to ``data/`` without duplicates.

    Returns the files of ``data/``, how many rows were dropped, and the :func:`_summary` of the kept rows.
    """
    store = publisher.store
    columns = ["id", "uri", "perceptual_hash", "split", "source", "listed"]
    read: list[Row] = []
    for part in parts:
        with store.open(f"{READ}/{part}") as file:
            # This read ignores a column that is missing in a part of an earlier release.
            read += pq.ParquetFile(file).read([*columns, "note"]).to_pylist()
    seen = [Seen(**{name: row[name] for name in columns}) for row in read]
    bits = recipe.data.near_duplicate_bits
    audit_splits(seen, bits)
    dropped = duplicates(seen, bits)
    for uri, twin in sorted(dropped.items()):
        log.info("images: %s is a duplicate of %s", uri, twin)
    finished = publisher.finished(DATA)
    for part in parts:
        if f"{DATA}/{part}" not in finished:
            with store.open(f"{READ}/{part}") as file:
                rows = read_table(file).to_pylist()
            commit(store, f"{DATA}/{part}", [row for row in rows if row["uri"] not in dropped], IMAGES)
    kept = [receipt_of(store, f"{DATA}/{part}").file for part in parts]
    return kept, len(dropped), _summary(row for row in read if row["uri"] not in dropped)


def _summary(rows: Iterable[Row]) -> dict[str, Any]:
    """Facts for the manifest: number of rows with a note, rows by split. Logs the most frequent notes."""
    notes, splits = Counter[str](), Counter[str]()
    for row in rows:
        notes.update([row["note"]] if row.get("note") else [])
        splits[row["split"]] += 1
    for note, count in notes.most_common(SHOWN):
        log.info("images: a note on %d photographs: %s", count, note)
    return {"noted": notes.total(), SPLITS: dict(sorted(splits.items()))}


if __name__ == "__main__":
    run_as_program(main)
