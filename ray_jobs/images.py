"""Job: photographs to the ``images`` dataset — decoded once, hashed, deduplicated, split."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict

from mmface import stages
from mmface.config import Recipe
from mmface.data.audit import Seen, audit_splits, duplicates
from mmface.data.records import IMAGES, QUARANTINE
from mmface.data.sources import Images, SourceFile, list_collection
from mmface.dataset import Identity, Publisher, count_rows, published, read_rows, to_parquet
from mmface.storage import Store
from ray_jobs._common import check_budget, parse_arguments, run_parts

log = logging.getLogger(__name__)


class Reader:
    """Reads one part of the collection into ``work/``; duplicates are decided over all parts later."""

    def __init__(self, identity: Identity, store: Store, recipe: Recipe, files: dict[str, list[SourceFile]]) -> None:
        self.publisher = Publisher(store, identity)
        self.files = files
        self.stage = Images(recipe.source, recipe.data)

    def run(self, part: str) -> int:
        """Reads the files of ``part``."""
        rows = [{**asdict(file), "mask_key": file.mask_key} for file in self.files[part]]
        result = self.stage(rows)
        self.publisher.write(f"quarantine/{part}", to_parquet(result.quarantined, QUARANTINE))
        self.publisher.write(f"work/{part}", to_parquet(result.rows, IMAGES))
        return len(rows)


def main(argv: Sequence[str] | None = None) -> str:
    """Reads what is missing, drops duplicates, publishes; returns the dataset's URI."""
    job = parse_arguments("images", argv)
    recipe = job.recipe
    identity = stages.images(recipe)
    found = published(job.home, identity)
    if found:
        return found
    collection = list_collection(recipe.source).files
    size = recipe.data.shard_rows
    files = {f"part-{i // size:05d}.parquet": list(collection[i : i + size]) for i in range(0, len(collection), size)}
    publisher = Publisher(job.home, identity)
    run_parts(
        publisher, list(files), lambda: Reader(identity, job.home, recipe, files), recipe.data.workers, folder="work"
    )
    dropped = _drop_duplicates(publisher, list(files), recipe)
    quarantined = sum(count_rows(publisher.store.read(f"quarantine/{part}")) for part in files)
    out = len(collection) - quarantined - dropped
    counts = {"in": len(collection), "out": out, "quarantined": quarantined, "duplicates": dropped, "filtered": 0}
    check_budget(publisher, counts, recipe.data.max_quarantined)
    return publisher.publish(counts)


def _drop_duplicates(publisher: Publisher, parts: Sequence[str], recipe: Recipe) -> int:
    """Writes ``data/`` from ``work/`` without duplicates; returns how many were dropped."""
    seen = []
    for part in parts:
        rows = read_rows(publisher.store.read(f"work/{part}"), ["id", "uri", "perceptual_hash", "split"])
        seen.extend(Seen(**row) for row in rows)
    bits = recipe.data.near_duplicate_bits
    dropped = duplicates(seen, bits)
    for uri, twin in sorted(dropped.items()):
        log.info("images: %s is a duplicate of %s", uri, twin)
    audit_splits((row for row in seen if row.uri not in dropped), bits)
    for part in parts:
        rows = read_rows(publisher.store.read(f"work/{part}"))
        publisher.write(f"data/{part}", to_parquet([row for row in rows if row["uri"] not in dropped], IMAGES))
    return len(dropped)


if __name__ == "__main__":
    print(main())
