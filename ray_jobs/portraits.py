"""Job that draws a collection of portraits, which replaces photographs, in the layout of a source folder."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from mmface import plan
from mmface.config import Recipe
from mmface.datasets.dataset import Publisher
from mmface.datasets.journal import Journal
from mmface.datasets.manifest import Identity
from mmface.store import Store
from ray_jobs.shared.job import exactly_once, parse_arguments, run_as_program, run_parts

PART = 50
SEEDS = 1_000_000  # seeds per recipe seed, so that recipes with different seeds never draw the same portrait
TABLES = {"captions.jsonl": 0, "attributes.csv": 1}  # header lines, which every part repeats


class Drawer:
    """Draws one part of the collection; the part's tables are written last and mark it as finished."""

    def __init__(self, identity: Identity, store: Store, recipe: Recipe) -> None:
        self.publisher = Publisher(store, identity)
        self.drawn = recipe.portraits
        self.first_seed = recipe.seed * SEEDS

    def run(self, part: str) -> int:
        """Draws a part and returns its number of portraits; part ``00003`` has portraits 150 to 199."""
        from mmface.data.portraits import write_collection

        start = int(part) * PART
        count = min(PART, self.drawn.n - start)
        with Journal(self.publisher.store, part) as journal, tempfile.TemporaryDirectory() as folder:
            journal.enter("drawing")
            write_collection(Path(folder), count, self.drawn.size, self.first_seed + start)
            for path in sorted(Path(folder).glob("*/*.png")):
                self.publisher.write(path.relative_to(folder).as_posix(), path.read_bytes())
            for table in TABLES:
                self.publisher.write(f"work/{table}/{part}", (Path(folder) / table).read_bytes())
        return count


def main(argv: Sequence[str] | None = None) -> str:
    """Draws the missing parts, publishes the dataset and returns its URI."""
    job = parse_arguments("portraits", argv)
    identity = plan.portraits(job.recipe)

    def work(publisher: Publisher) -> str:
        n = job.recipe.portraits.n
        parts = [f"{i:05d}" for i in range(-(-n // PART))]
        marker = f"work/{list(TABLES)[-1]}"

        def make() -> Drawer:
            return Drawer(identity, job.home, job.recipe)

        run_parts(publisher, parts, make, job.recipe.data.workers, folder=marker)
        for table, header in TABLES.items():
            lines: list[bytes] = []
            for part in parts:
                new = publisher.store.read(f"work/{table}/{part}").splitlines(keepends=True)
                lines += new[header if lines else 0 :]
            publisher.write(table, b"".join(lines))
        return publisher.publish({"in": n, "out": n})

    return exactly_once(job.home, identity, work)


if __name__ == "__main__":
    run_as_program(main)
