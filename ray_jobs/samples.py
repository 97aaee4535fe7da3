"""Job that generates images for held-out rows with the trained transformer and measures each of them."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mmface import plan
from mmface.config import Recipe
from mmface.datasets.dataset import Publisher, open_dataset
from mmface.datasets.journal import Journal
from mmface.datasets.manifest import Identity
from mmface.datasets.parts import DATA, commit, join_parts, part_names
from mmface.datasets.records import SAMPLES
from mmface.datasets.stage import Row
from mmface.datasets.tally import reconcile
from mmface.errors import StageError
from mmface.store import Store
from ray_jobs.shared.job import exactly_once, parse_arguments, run_as_program, run_parts

ROWS = ("images", "conditions", "captions")
PART_ROWS = 32  # rows per part; all of one modality


class Painter:
    """Generates the images of one part."""

    def __init__(self, identity: Identity, store: Store, recipe: Recipe, parts: dict[str, list[Row]]) -> None:
        from mmface.evaluate.paint import Paint
        from mmface.networks.components import accelerator

        self.store = store.child(identity.key)
        self.inputs = [open_dataset(identity.inputs[name]) for name in ROWS]
        self.parts = parts
        with tempfile.TemporaryDirectory() as folder:
            open_dataset(identity.inputs["train"]).download("transformer", Path(folder))
            self.paint = Paint(recipe, folder, accelerator())

    def run(self, part: str) -> int:
        """Generates the images of ``part``; returns their number."""
        planned = self.parts[part]
        wanted, sources = {row["id"] for row in planned}, sorted({row["part"] for row in planned})
        rows = {row["id"]: row for name in sources for row in join_parts(self.inputs, name) if row["id"] in wanted}
        with Journal(self.store, part) as journal:
            journal.enter("painting")
            samples = self.paint([{**rows[row["id"]], "modality": row["modality"]} for row in planned])
        commit(self.store, f"{DATA}/{part}", samples, SAMPLES)
        return len(samples)


def main(argv: Sequence[str] | None = None) -> str:
    """Generates the missing parts, publishes the dataset and returns its URI."""
    job = parse_arguments("samples", argv, needs=["train", *ROWS]).pinned()
    given = {name: job.inputs[name] for name in ("train", *ROWS)}
    identity = plan.samples(job.recipe, **given)

    def work(publisher: Publisher) -> str:
        parts = _plan(job.recipe, identity)

        def make() -> Painter:
            return Painter(identity, job.home, job.recipe, parts)

        run_parts(publisher, list(parts), make, job.recipe.data.workers)
        tally = reconcile(publisher, list(parts))
        return publisher.publish(tally.counts, files=tally.files)

    return exactly_once(job.home, identity, work)


def _plan(recipe: Recipe, identity: Identity) -> dict[str, list[Row]]:
    """The parts by name: each at most ``PART_ROWS`` rows {id, part, modality} of one modality.

    The parts depend only on the dataset's identity, so an interrupted run can be resumed with any
    ``evaluate.batch_size``.
    """
    from mmface.evaluate.paint import batches, plan

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
    painted: Counter[str] = Counter()
    for rows in batches(plan(held_out, recipe.evaluate), PART_ROWS):
        modality = rows[0]["modality"]
        first, painted[modality] = painted[modality], painted[modality] + len(rows)
        parts[f"{modality}-{first:05d}-{painted[modality] - 1:05d}.parquet"] = rows
    return parts


if __name__ == "__main__":
    run_as_program(main)
