"""Job: photographs to the ``images`` dataset — decoded once, hashed, deduplicated, split."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from mmface import stages
from mmface.config import Recipe
from mmface.data.audit import Seen, audit_splits, duplicates
from mmface.data.records import IMAGES, QUARANTINE
from mmface.data.sources.files import SourceFile
from mmface.data.sources.images import Images
from mmface.data.sources.layouts import list_collections, summaries
from mmface.dataset import Identity, Publisher, count_rows, published, read_rows, to_parquet
from mmface.errors import RecipeError
from mmface.storage import Store
from ray_jobs._common import check_budget, parse_arguments, run_parts

log = logging.getLogger(__name__)


class Reader:
    """Reads one part of the collections into ``work/``; duplicates are decided over all parts later."""

    def __init__(self, identity: Identity, store: Store, recipe: Recipe, files: dict[str, list[SourceFile]]) -> None:
        self.publisher = Publisher(store, identity)
        self.files = files
        self.stage = Images(recipe.sources, recipe.data)

    def run(self, part: str) -> int:
        """Reads the files of ``part``."""
        result = self.stage([self.stage.row(file) for file in self.files[part]])
        self.publisher.write(f"quarantine/{part}", to_parquet(result.quarantined, QUARANTINE))
        self.publisher.write(f"work/{part}", to_parquet(result.rows, IMAGES))
        return len(self.files[part])


def main(argv: Sequence[str] | None = None) -> str:
    """Reads what is missing, drops duplicates, publishes; returns the dataset's URI."""
    job = parse_arguments("images", argv)
    recipe = job.recipe
    if not recipe.sources:
        raise RecipeError("name a collection of photographs here", field="sources")
    identity = stages.images(recipe, job.home)
    found = published(job.home, identity)
    if found:
        return found
    listings = list_collections(recipe.sources)
    listed = [file for listing in listings for file in listing.files]
    size = recipe.data.shard_rows
    files = {f"part-{i // size:05d}.parquet": listed[i : i + size] for i in range(0, len(listed), size)}
    publisher = Publisher(job.home, identity)
    run_parts(
        publisher, list(files), lambda: Reader(identity, job.home, recipe, files), recipe.data.workers, folder="work"
    )
    dropped = _drop_duplicates(publisher, list(files), recipe)
    quarantined = sum(count_rows(publisher.store.read(f"quarantine/{part}")) for part in files)
    out = len(listed) - quarantined - dropped
    counts = {"in": len(listed), "out": out, "quarantined": quarantined, "duplicates": dropped, "filtered": 0}
    check_budget(publisher, counts, recipe.data.max_quarantined)
    return publisher.publish(counts, extra={"sources": summaries(recipe.sources, listings)})


def _drop_duplicates(publisher: Publisher, parts: Sequence[str], recipe: Recipe) -> int:
    """Audits all rows, then writes ``data/`` from ``work/`` without duplicates; returns how many were dropped."""
    columns = ["id", "uri", "perceptual_hash", "split", "source", "listed"]
    rows = (row for part in parts for row in read_rows(publisher.store.read(f"work/{part}"), columns))
    seen = [Seen(**row) for row in rows]
    bits = recipe.data.near_duplicate_bits
    audit_splits(seen, bits)
    dropped = duplicates(seen, bits)
    for uri, twin in sorted(dropped.items()):
        log.info("images: %s is a duplicate of %s", uri, twin)
    for part in parts:
        kept = [row for row in read_rows(publisher.store.read(f"work/{part}")) if row["uri"] not in dropped]
        publisher.write(f"data/{part}", to_parquet(kept, IMAGES))
    return len(dropped)


if __name__ == "__main__":
    print(main())
