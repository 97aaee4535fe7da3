"""Job: paints held-out rows with a trained transformer and measures every picture."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from mmface import stages
from mmface.config import Recipe
from mmface.data.records import QUARANTINE, SAMPLES
from mmface.data.stage import Row
from mmface.dataset import Identity, Publisher, open_dataset, published, to_parquet
from mmface.errors import StageError
from mmface.storage import Store
from ray_jobs._common import join_parts, parse_arguments, part_names, reconcile, run_parts

ROWS = ("images", "conditions", "captions")


class Painter:
    """Paints one part of the plan; a part is one batch of one modality."""

    def __init__(self, identity: Identity, store: Store, recipe: Recipe, parts: dict[str, list[Row]]) -> None:
        from mmface.evaluate.paint import Paint

        self.publisher = Publisher(store, identity)
        self.inputs = [open_dataset(identity.inputs[name]) for name in ROWS]
        self.parts = parts
        with tempfile.TemporaryDirectory() as folder:
            open_dataset(identity.inputs["train"]).download("transformer", Path(folder))
            self.paint = Paint(recipe, folder)

    def run(self, part: str) -> int:
        """Paints the rows of ``part``."""
        planned = self.parts[part]
        rows = {
            row["id"]: row for name in sorted({row["part"] for row in planned}) for row in join_parts(self.inputs, name)
        }
        samples = self.paint([{**rows[row["id"]], "modality": row["modality"]} for row in planned])
        self.publisher.write(f"quarantine/{part}", to_parquet([], QUARANTINE))
        self.publisher.write(f"data/{part}", to_parquet(samples, SAMPLES))
        return len(samples)


def main(argv: Sequence[str] | None = None) -> str:
    """Paints what is missing and publishes; returns the dataset's URI."""
    job = parse_arguments("samples", argv, needs=["train", *ROWS])
    given = {name: job.inputs[name] for name in ("train", *ROWS)}
    identity = stages.samples(job.recipe, **given)
    found = published(job.home, identity)
    if found:
        return found
    parts = _plan(job.recipe, identity)
    publisher = Publisher(job.home, identity)
    run_parts(publisher, list(parts), lambda: Painter(identity, job.home, job.recipe, parts), job.recipe.data.workers)
    return publisher.publish(reconcile(publisher, list(parts)))


def _plan(recipe: Recipe, identity: Identity) -> dict[str, list[Row]]:
    """Names of the parts with what each paints: rows {id, part, modality} in batches of one modality."""
    from mmface.evaluate.paint import plan

    images, *others = (open_dataset(identity.inputs[name]) for name in ROWS)
    held_out = [
        {"id": row["id"], "part": part}
        for part in part_names(images)
        for row in join_parts([images, *others], part, columns=[["id", "split"], ["id"], ["id"]])
        if row["split"] == "test"
    ]
    if not held_out:
        raise StageError("no photograph is held out; raise data.holdout or add photographs", field="data.holdout")
    parts: dict[str, list[Row]] = {}
    planned = plan(held_out, recipe.evaluate)
    for modality in dict.fromkeys(row["modality"] for row in planned):
        same = [row for row in planned if row["modality"] == modality]
        for start in range(0, len(same), recipe.evaluate.batch_size):
            parts[f"part-{len(parts):05d}.parquet"] = same[start : start + recipe.evaluate.batch_size]
    return parts


if __name__ == "__main__":
    print(main())
