"""What every job shares: its arguments, reaching Ray, and running a stage exactly once over the parts of a dataset."""

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
from mmface.config.environment import prepare_environment
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

POOLS = 3  # pools of actors lost in a row, without one new part between them, before a stage gives up


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
        """The same with the stage's components at a commit, which a flow has pinned already. Raises RecipeError."""
        return replace(self, recipe=pin_components(self.recipe, plan.COMPONENTS[self.stage]))


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
    return JobArguments(stage, recipe, inputs, place, given.phase, given.mlflow_run)


def run_as_program(main: Callable[[], str | list[str]]) -> None:
    """``python -m ray_jobs.<stage>``: progress on stderr, the URIs of its datasets on stdout.

    A mistake that we know is one line and exit code 2; a service that does not answer is one line and ``TRY_AGAIN``.
    """
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for name in ("ray_jobs", "mmface", "__main__"):
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        prepare_environment()
        made = main()
    except MMFaceError as error:
        print(f"{SAID}{error}", file=sys.stderr)
        sys.exit(TRY_AGAIN if isinstance(error, UnreachableError) else 2)
    print(*([made] if isinstance(made, str) else made), sep="\n")


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
        # "local": without an address Ray would join whatever cluster was started on this machine last.
        options = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
        ray.init(address="local", logging_level="warning", **options)


def exactly_once(home: Store, identity: Identity, make: Callable[[Publisher], str]) -> str:
    """The dataset of ``identity``: the published one, or what ``make`` publishes.

    Of two runs at once the first publishes. What the other then stumbles over is of no account: it takes the winner's.
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
    """A whole stage over the parts of its first input: maps what is unfinished, checks the budget, publishes.

    Args:
        extra: what the manifest is to say beside the counts, asked when every part is finished.

    Returns the dataset's URI; at once if it is published already.
    """

    def work(publisher: Publisher) -> str:
        parts = part_names(open_dataset(next(iter(identity.inputs.values()))))
        gather(store, identity)
        run_parts(publisher, parts, make, recipe.data.workers)
        return publish_parts(publisher, parts, recipe, extra(publisher.store) if extra else {})

    return exactly_once(store, identity, work)


def publish_parts(publisher: Publisher, parts: Sequence[str], recipe: Recipe, extra: Mapping[str, Any]) -> str:
    """Counts the finished parts, checks the error budget, publishes; returns the dataset's URI."""
    tally = reconcile(publisher, parts)
    check_budget(publisher, tally.counts, recipe.data.max_quarantined)
    return publisher.publish(tally.counts, extra={**tally.extra, **extra}, files=tally.files)


def run_parts(
    publisher: Publisher, parts: Sequence[str], make: Callable[[], Worker], workers: int, *, folder: str = DATA
) -> None:
    """Runs the parts that ``folder`` does not hold yet on at most ``workers`` Ray Data actors.

    An actor that dies is replaced and its part tried again; see :mod:`mmface.datasets.journal` for what ends that.

    Args:
        make: builds the worker, inside its actor.

    Raises:
        StageError: processes die and no part gets finished, or Ray itself was lost.
        MMFaceError: what a worker raised; what was finished before is kept.
    """
    stage = publisher.identity.stage
    todo = _unfinished(publisher, parts, folder)
    if len(todo) < len(parts):
        log.info("%s: %d of %d parts are finished already", stage, len(parts) - len(todo), len(parts))
    if not todo:
        return
    from ray.exceptions import RayActorError, RayError

    connect_ray()
    barren = 0
    while todo:
        rows = 0
        try:
            for done, (part, count) in enumerate(_map_parts(publisher, todo, make, workers, folder), 1):
                rows += count
                log.info("%s: %d of %d parts, %d rows (%s)", stage, done, len(todo), rows, part)
            return
        except RayActorError as error:
            left = _unfinished(publisher, parts, folder)
            barren = barren + 1 if len(left) == len(todo) else 0
            if barren == POOLS:
                raise StageError(f"workers die before they finish a part ({cause_of(error)})", field=stage) from error
            log.warning("%s: workers were lost (%s); %d parts are left", stage, cause_of(error), len(left))
            todo = left
        except RayError as error:
            raise StageError(f"{cause_of(error)}; run again to go on where it stopped", field=stage) from error


def _unfinished(publisher: Publisher, parts: Sequence[str], folder: str) -> list[str]:
    finished = {PurePosixPath(key).name for key in publisher.finished(folder)}
    return [part for part in parts if part not in finished]


def _map_parts(
    publisher: Publisher, parts: Sequence[str], make: Callable[[], Worker], workers: int, folder: str
) -> Iterator[tuple[str, int]]:
    """Names and rows of the parts as they get finished. Raises what a worker raised."""
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
                # Raised here, Ray Data would hand on its text alone.
                return {"part": [part], "rows": [0], "error": [error]}
            except Exception as error:  # any: whatever a worker cannot be built for, or a defect
                log.exception("%s: %s", stage, part)
                failed = StageError(
                    f"{part}: {describe(error)}; its traceback is in Ray's log of the worker", field=stage
                )
                return {"part": [part], "rows": [0], "error": [failed]}

    pool = ActorPoolStrategy(size=min(workers, len(parts)))
    blocks = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
    for row in blocks.map_batches(Actor, batch_size=1, compute=pool).iter_rows():
        if row["error"] is not None:
            raise row["error"]
        yield row["part"], int(row["rows"])


def cause_of(error: Exception) -> str:
    """An error of Ray in one line: of a task what it raised, else what Ray says first."""
    from ray.exceptions import RayTaskError

    lines = re.sub(r"\x1b\[\d*m", "", str(error)).strip().splitlines() or [type(error).__name__]
    if isinstance(error, RayTaskError):
        # Beside the frames of tracebacks, the first that was raised comes first.
        return next((line for line in lines if line and not line.startswith((" ", "ray::", "Traceback"))), lines[-1])
    return lines[0]
