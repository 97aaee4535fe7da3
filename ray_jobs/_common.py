"""What every job shares: its arguments, reaching Ray, and running a stage exactly once over the parts of a dataset."""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from mmface.config import Recipe
from mmface.data.records import QUARANTINE
from mmface.data.stage import Row, Stage, is_filtered
from mmface.dataset import (
    Dataset,
    Identity,
    Publisher,
    count_rows,
    open_dataset,
    published,
    read_rows,
    to_parquet,
)
from mmface.errors import StageError
from mmface.reach import ray_address
from mmface.recipes import load_recipe
from mmface.storage import Store, home

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobArguments:
    """The command line of a job, parsed."""

    recipe: Recipe
    inputs: dict[str, str]
    home: Store
    phase: int
    mlflow_run: str | None


def parse_arguments(stage: str, argv: Sequence[str] | None, *, needs: Iterable[str] = ()) -> JobArguments:
    """``--recipe PATH [--set key=value] [--inputs name=URI] [--home URI] [--phase I] [--mlflow-run ID]``."""
    parser = argparse.ArgumentParser(prog=f"python -m ray_jobs.{stage}")
    parser.add_argument("--recipe", required=True, help="name or path of the recipe")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one recipe key")
    parser.add_argument("--inputs", action="append", default=[], metavar="NAME=URI", help="a published dataset")
    parser.add_argument("--home", help="where datasets are kept (default: MMFACE_HOME)")
    parser.add_argument("--phase", type=int, default=0, help="index of the training phase")
    parser.add_argument("--mlflow-run", help="MLflow run that the job logs to")
    given = parser.parse_args(argv)
    inputs = dict(pair.partition("=")[::2] for pair in given.inputs)
    missing = [name for name in needs if not inputs.get(name)]
    if missing:
        parser.error(f"missing --inputs {'=URI --inputs '.join(missing)}=URI")
    recipe = load_recipe(given.recipe, given.set)
    if not 0 <= given.phase < len(recipe.phases):
        parser.error(f"--phase must be below {len(recipe.phases)}")
    place = Store(given.home) if given.home else home()
    return JobArguments(recipe, inputs, place, given.phase, given.mlflow_run)


def connect_ray() -> None:
    """Joins the cluster of ``RAY_ADDRESS``, or starts Ray on this machine; does nothing when connected.

    Raises:
        ServiceError: ``RAY_ADDRESS`` names a place where nothing answers.
    """
    import ray

    if ray.is_initialized():
        return
    address = ray_address()
    if address:
        ray.init(address=address)
    else:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="warning", configure_logging=False)


def run_stage(
    identity: Identity,
    store: Store,
    make: Callable[[], PartWorker],
    recipe: Recipe,
    *,
    extra: Mapping[str, Any] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> str:
    """A whole stage over the parts of its first input: maps what is unfinished, checks the budget, publishes.

    Returns the dataset's URI; at once if it is published already.
    """
    found = published(store, identity)
    if found:
        return found
    publisher = Publisher(store, identity)
    parts = part_names(open_dataset(next(iter(identity.inputs.values()))))
    run_parts(publisher, parts, make, recipe.data.workers)
    counts = reconcile(publisher, parts)
    check_budget(publisher, counts, recipe.data.max_quarantined)
    for path, data in (files or {}).items():
        publisher.write(path, data)
    return publisher.publish(counts, extra=extra)


def run_parts(
    publisher: Publisher, parts: Sequence[str], make: Callable[[], PartWorker], workers: int, *, folder: str = "data"
) -> None:
    """Runs the parts that ``folder`` does not hold yet on at most ``workers`` Ray Data actors.

    Args:
        make: builds the worker, inside its actor.
    """
    stage = publisher.identity.stage
    finished = {PurePosixPath(key).name for key in publisher.finished(folder)}
    todo = [part for part in parts if part not in finished]
    if finished:
        log.info("%s: %d of %d parts are finished already", stage, len(finished), len(parts))
    if not todo:
        return
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    connect_ray()
    DataContext.get_current().enable_progress_bars = False

    class Actor:
        def __init__(self) -> None:
            self.worker = make()

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            return {"part": batch["part"], "rows": [self.worker.run(str(part)) for part in batch["part"]]}

    pool = ActorPoolStrategy(size=min(workers, len(todo)))
    blocks = ray.data.from_items([{"part": part} for part in todo], override_num_blocks=len(todo))
    rows = 0
    for done, part in enumerate(blocks.map_batches(Actor, batch_size=1, compute=pool).iter_rows(), 1):
        rows += int(part["rows"])
        log.info("%s: %d of %d parts, %d rows", stage, done, len(todo), rows)


class PartWorker:
    """One part of the inputs through a stage, written as one part of the output; quarantine first, data last."""

    def __init__(self, identity: Identity, store: Store, stage: Stage) -> None:
        self.publisher = Publisher(store, identity)
        self.inputs = {name: open_dataset(uri) for name, uri in identity.inputs.items()}
        self.stage = stage

    def rows(self, part: str) -> list[Row]:
        """The part's rows: every input's part of the same name, joined by id."""
        return join_parts(list(self.inputs.values()), part)

    def run(self, part: str) -> int:
        """Maps one part; returns its number of input rows."""
        rows = self.rows(part)
        result = self.stage(rows)
        assert len(rows) == len(result.rows) + len(result.quarantined), f"{self.stage.name} lost rows of {part}"
        self.publisher.write(f"quarantine/{part}", to_parquet(result.quarantined, QUARANTINE))
        self.publisher.write(f"data/{part}", to_parquet(result.rows, self.stage.schema))
        return len(rows)


def join_parts(inputs: Sequence[Dataset], part: str, columns: Sequence[list[str] | None] = ()) -> list[Row]:
    """Rows of the first input's part that every other input has too, columns together.

    Args:
        columns: what to read of each input; by default everything.
    """
    wanted = columns or [None] * len(inputs)
    base, *others = (
        dataset.part(f"data/{part}", some).to_pylist() for dataset, some in zip(inputs, wanted, strict=True)
    )
    joined = {row["id"]: row for row in base}
    for rows in others:
        found = {row["id"]: row for row in rows}
        # Later inputs win: the mask of ``conditions`` stands for the one that came with the photograph.
        joined = {key: {**row, **found[key]} for key, row in joined.items() if key in found}
    return list(joined.values())


def part_names(dataset: Dataset) -> list[str]:
    """Names of a dataset's parts, in order."""
    return [PurePosixPath(file.path).name for file in dataset.parts()]


def reconcile(publisher: Publisher, parts: Sequence[str]) -> dict[str, int]:
    """Counts what lies in the part files, so that parts of an earlier attempt count too."""
    out = sum(count_rows(publisher.store.read(f"data/{part}")) for part in parts)
    reasons = [
        row["error"] for part in parts for row in read_rows(publisher.store.read(f"quarantine/{part}"), ["error"])
    ]
    filtered = sum(map(is_filtered, reasons))
    quarantined = len(reasons) - filtered
    return {
        "in": out + len(reasons),
        "out": out,
        "quarantined": quarantined,
        "duplicates": 0,
        "filtered": filtered,
    }


def check_budget(publisher: Publisher, counts: Mapping[str, int], max_quarantined: float) -> None:
    """Raises StageError with the commonest reasons when more rows were set aside than the recipe allows."""
    if counts["out"] and counts["quarantined"] <= max_quarantined * counts["in"]:
        return
    keys = sorted(publisher.finished("quarantine"))
    rows = (row for key in keys for row in read_rows(publisher.store.read(key)))
    reasons = Counter(row["message"] for row in rows if not is_filtered(row["error"]))
    top = "; ".join(f"{count}x {reason}" for reason, count in reasons.most_common(3))
    raise StageError(
        f"{counts['quarantined']} of {counts['in']} rows were set aside, more than data.max_quarantined "
        f"{max_quarantined:g} allows ({top or 'no row was left'})",
        field=publisher.identity.stage,
    )
