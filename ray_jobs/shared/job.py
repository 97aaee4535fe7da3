"""Code that all jobs share: arguments, connecting to Ray, and running a stage exactly once over its parts."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from mmface import plan
from mmface.config import Recipe
from mmface.config.environment import prepare_environment, quiet_libraries
from mmface.config.load import load_recipe
from mmface.datasets.dataset import Publisher, open_dataset, published
from mmface.datasets.manifest import Identity
from mmface.datasets.part_worker import PartWorker, Runner, Worker
from mmface.datasets.parts import DATA, part_names
from mmface.datasets.reuse import gather
from mmface.datasets.tally import check_budget, reconcile
from mmface.errors import SAID, TRY_AGAIN, MMFaceError, StageError, UnreachableError, describe
from mmface.networks.hub import pin_components
from mmface.store import Store, home
from mmface.store.reach import ray_address

log = logging.getLogger(__name__)

POOLS = 3  # a stage fails after losing this many pools of actors in a row without a new part


@dataclass(frozen=True)
class JobArguments:
    """The command line of a job, parsed."""

    stage: str
    recipe: Recipe
    inputs: dict[str, str]
    home: Store
    phase: int
    mlflow_run: str | None

    def pinned(self) -> JobArguments:
        """The same arguments with the stage's components pinned to commits; no change if a flow has pinned them.

        Raises:
            RecipeError: a component cannot be pinned.
        """
        return replace(self, recipe=pin_components(self.recipe, plan.COMPONENTS[self.stage]))


def parse_arguments(stage: str, argv: Sequence[str] | None, *, needs: Iterable[str] = ()) -> JobArguments:
    """Parses ``--recipe PATH [--set key=value] [--inputs name=URI] [--home URI] [--phase I] [--mlflow-run ID]``."""
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
    return JobArguments(stage, recipe, inputs, place, given.phase, given.mlflow_run)


def run_as_program(main: Callable[[], str | list[str]]) -> None:
    """Runs a job as a program: prints progress on stderr and the URIs of its datasets on stdout.

    An error of the mmface tree prints one line and exits with code 2, or ``TRY_AGAIN`` if a service did not answer.
    """
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for name in ("ray_jobs", "mmface", "__main__"):
        logging.getLogger(name).setLevel(logging.INFO)
    quiet_libraries()
    try:
        prepare_environment()
        made = main()
    except MMFaceError as error:
        print(f"{SAID}{error}", file=sys.stderr)
        sys.exit(TRY_AGAIN if isinstance(error, UnreachableError) else 2)
    print(*([made] if isinstance(made, str) else made), sep="\n")


def connect_ray() -> None:
    """Connects to the cluster at ``RAY_ADDRESS``, or starts Ray on this machine; does nothing if already connected.

    Raises:
        ServiceError: nothing answers at ``RAY_ADDRESS``.
    """
    import ray

    if ray.is_initialized():
        return
    address = ray_address()
    if address:
        ray.init(address=address)
    else:
        # With "local" Ray starts; without an address it would join the cluster that was last started on this machine.
        options = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
        ray.init(address="local", logging_level="warning", **options)


def exactly_once(home: Store, identity: Identity, make: Callable[[Publisher], str]) -> str:
    """URI of the dataset with ``identity``: the published one, or the one that ``make`` publishes.

    If two runs work on it at once, the first to publish wins. Errors of the losing run are ignored; it returns the
    winner's dataset.
    """
    found = published(home, identity)
    if found:
        return found
    try:
        return make(Publisher(home, identity))
    except MMFaceError:
        found = published(home, identity)
        if found:
            return found
        raise


def run_stage(
    identity: Identity,
    store: Store,
    make: Callable[[], PartWorker],
    recipe: Recipe,
    *,
    extra: Callable[[Store], Mapping[str, Any]] | None = None,
) -> str:
    """Runs a stage over the parts of its first input: maps unfinished parts, checks the error budget, publishes.

    Args:
        extra: returns further facts for the manifest; called after all parts are finished.

    Returns:
        The dataset's URI; at once if it is published already.
    """

    def work(publisher: Publisher) -> str:
        parts = part_names(open_dataset(next(iter(identity.inputs.values()))))
        gather(store, identity)
        run_parts(publisher, parts, make, recipe.data.workers)
        return publish_parts(publisher, parts, recipe, extra(publisher.store) if extra else {})

    return exactly_once(store, identity, work)


def publish_parts(publisher: Publisher, parts: Sequence[str], recipe: Recipe, extra: Mapping[str, Any]) -> str:
    """Counts the rows of the finished parts, checks the error budget, publishes; returns the dataset's URI."""
    tally = reconcile(publisher, parts)
    check_budget(publisher, tally.counts, recipe.data.max_quarantined)
    return publisher.publish(tally.counts, extra={**tally.extra, **extra}, files=tally.files)


def run_parts(
    publisher: Publisher, parts: Sequence[str], make: Callable[[], Worker], workers: int, *, folder: str = DATA
) -> None:
    """Runs the parts that are missing in ``folder`` on at most ``workers`` Ray Data actors.

    If an actor dies, it is replaced and its part is retried; :mod:`mmface.datasets.journal` limits the retries.

    Args:
        make: creates the worker, inside its actor.

    Raises:
        StageError: processes keep dying without finishing a part, or the connection to Ray was lost.
        MMFaceError: raised by a worker; finished parts are kept.
    """
    stage = publisher.identity.stage
    todo = _unfinished(publisher, parts, folder)
    if len(todo) < len(parts):
        log.info("%s: %d of %d parts are finished already", stage, len(parts) - len(todo), len(parts))
    if not todo:
        return
    from ray.exceptions import RayActorError, RayError

    connect_ray()
    lost_pools = 0
    while todo:
        rows = 0
        try:
            for done, (part, count) in enumerate(_map_parts(publisher, todo, make, workers, folder), 1):
                rows += count
                figures = {"name": stage, "done": done, "total": len(todo), "rows": rows}
                line = "%s: %d of %d parts, %d rows (%s)"
                log.info(line, stage, done, len(todo), rows, part, extra={"progress": figures})
            return
        except RayActorError as error:
            left = _unfinished(publisher, parts, folder)
            lost_pools = lost_pools + 1 if len(left) == len(todo) else 0
            if lost_pools == POOLS:
                remedy = "look for the cause in the Ray logs, give the job more memory or lower data.workers"
                message = f"workers died {POOLS} times before they finished a part ({cause_of(error)}); {remedy}"
                raise StageError(message, field=stage) from error
            log.warning("%s: lost workers (%s); retrying the %d parts that are left", stage, cause_of(error), len(left))
            todo = left
        except RayError as error:
            raise StageError(f"{cause_of(error)}; run again to resume where it stopped", field=stage) from error


def _unfinished(publisher: Publisher, parts: Sequence[str], folder: str) -> list[str]:
    finished = {PurePosixPath(key).name for key in publisher.finished(folder)}
    return [part for part in parts if part not in finished]


def _map_parts(
    publisher: Publisher, parts: Sequence[str], make: Callable[[], Worker], workers: int, folder: str
) -> Iterator[tuple[str, int]]:
    """(name, number of rows) of each part when it is finished. Raises the error of a worker."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    DataContext.get_current().enable_progress_bars = False
    store, stage = publisher.store, publisher.identity.stage

    class Actor:
        def __init__(self) -> None:
            self.runner = Runner(store, folder, make)

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            part = str(batch["part"][0])
            try:
                return {"part": [part], "rows": [self.runner.run(part)], "error": [None]}
            except MMFaceError as error:
                # Returned, not raised: Ray Data would pass on only the text of an exception.
                return {"part": [part], "rows": [0], "error": [error]}
            except Exception as error:  # any type: a worker that cannot be created, or a bug
                log.exception("%s: %s failed", stage, part)
                failed = StageError(
                    f"{part}: {describe(error)}; the traceback is in Ray's log of the worker", field=stage
                )
                return {"part": [part], "rows": [0], "error": [failed]}

    pool = ActorPoolStrategy(size=min(workers, len(parts)))
    blocks = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
    for row in blocks.map_batches(Actor, batch_size=1, compute=pool).iter_rows():
        if row["error"] is not None:
            raise row["error"]
        yield row["part"], int(row["rows"])


def cause_of(error: Exception) -> str:
    """An error of Ray in one line: for a task the exception that it raised, otherwise the first line of the message."""
    from ray.exceptions import RayTaskError

    lines = re.sub(r"\x1b\[\d*m", "", str(error)).strip().splitlines() or [type(error).__name__]
    if isinstance(error, RayTaskError):
        # The first line that is not part of a traceback is the exception that was raised first.
        return next((line for line in lines if line and not line.startswith((" ", "ray::", "Traceback"))), lines[-1])
    return lines[0]
