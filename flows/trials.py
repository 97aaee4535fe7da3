"""The trials of a study under Ray Tune, which decides when each one runs and stops bad ones early.

A trial is a light actor without CPUs of its own. It runs the stages from training to the bundle as every flow does: as
jobs of the cluster, or in its own process, where Ray Train and Ray Data start their workers beside it.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from queue import SimpleQueue
from threading import Event, Thread, current_thread
from typing import Any

from prefect.context import hydrated_context, serialize_context
from prefect.settings import PREFECT_API_URL, temporary_settings
from ray import tune
from ray.exceptions import RayError
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from flows.cluster.reap import reap_jobs
from flows.cluster.server import server_address
from flows.release import BUNDLE, METRICS, read_metrics
from flows.steps.evaluation import paint_and_bundle
from flows.steps.line import Prepared, Run, each_phase, tracked
from flows.steps.progress import Figures, Status, listening
from mmface.bundles import tracking
from mmface.config.environment import quiet_libraries
from mmface.datasets.dataset import open_dataset, upstream
from mmface.errors import MMFaceError, StageError, describe
from mmface.evaluate.report.chart import histories
from mmface.store import HOME_VARIABLE
from mmface.store.reach import dashboard_address, ray_address
from mmface.studies.trials import HELD_OUT, Outcome, Trial

log = logging.getLogger(__name__)

STEPS, STAGE, BUNDLE_URI, FAILED = "steps", "stage", "bundle", "failed"
STOPPED_TAG = "mmface.stopped_early"  # of an MLflow run: the optimizer step after which its trial was stopped
LOST_ACTORS = 2  # restarts of a trial whose process died
LIGHT = {"memory": 1}  # Tune asks for some resource; CPUs and GPUs are for the jobs of the trial
STOP_SECONDS = 60.0  # within which a trial on a cluster stops its job
SHOW_SECONDS = 5.0
SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # whose tables `verbose=0` does not silence
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_THRESHOLD_S": "60",  # seconds that a step of Tune may take on a busy machine
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # an interrupt ends the study, as it ends every flow
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # painting reports no loss
}


@dataclass(frozen=True)
class Assignment:
    """What the process of a trial needs.

    Attributes:
        run: with the recipe of the trial.
        key: names its MLflow run.
        parent: id of the MLflow run of the study.
    """

    trial: Trial
    run: Run
    data: Prepared
    key: str
    parent: str


@dataclass(frozen=True)
class Surroundings:
    """What a process has in common with that of the flow: services, settings, and the flow run in Prefect."""

    environment: Mapping[str, str]
    prefect: str
    context: Mapping[str, Any]

    @classmethod
    def here(cls, home: str) -> Surroundings:
        """Those of this process."""
        environment = {HOME_VARIABLE: home, tracking.TRACKING_VARIABLE: tracking.tracking_uri()}
        context = {name: value for name, value in serialize_context().items() if name != "settings_context"}
        return cls(environment, server_address(), context)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Context of this thread in which tasks belong to the flow run."""
        os.environ.update(self.environment)
        quiet_libraries()
        with temporary_settings({PREFECT_API_URL: self.prefect}), hydrated_context(dict(self.context)):
            yield


def run_trials(
    assignments: Sequence[Assignment], *, at_once: int, scheduler: TrialScheduler | None = None
) -> list[Outcome]:
    """Runs the trials, ``at_once`` at a time, and returns what became of each.

    Args:
        scheduler: of Ray Tune; by default every trial runs to its end.

    Raises:
        StageError: Ray Tune could not go on.
    """
    os.environ.update(SETTINGS)
    home = assignments[0].run.home
    with _connected(), tempfile.TemporaryDirectory(prefix="mmface-") as unused:  # trials keep nothing there
        driver = tune.with_parameters(Driver, assignments=list(assignments), surroundings=Surroundings.here(home.uri))
        tuner = tune.Tuner(
            tune.with_resources(driver, LIGHT),
            param_space={"trial": tune.grid_search(list(range(len(assignments))))},
            tune_config=tune.TuneConfig(max_concurrent_trials=at_once, scheduler=scheduler or FIFOScheduler()),
            run_config=tune.RunConfig(
                storage_path=unused,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=LOST_ACTORS),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # datasets are what is kept
                callbacks=[Narrator([one.trial.name for one in assignments])],
            ),
        )
        try:
            results = tuner.fit()
        except (RayError, RuntimeError) as error:  # Tune ends itself when Ray kills an actor for its memory
            message = f"Ray Tune ended ({str(error).splitlines()[0]}); run again to resume"
            raise StageError(message, field="study") from error
        finally:
            reap_jobs(home, flow_run=assignments[0].run.flow_run)  # of trials that did not stop their job in time
    found = {result.config["trial"]: result for result in results}
    return [_outcome(one, found[i]) for i, one in enumerate(assignments)]


def stopping_early(steps: int) -> TrialScheduler:
    """ASHA (arXiv 1810.05934): at a quarter and at half of ``steps`` only the better half of the trials goes on."""
    return ASHAScheduler(
        time_attr=STEPS,
        metric=HELD_OUT,
        mode="min",
        max_t=steps,
        grace_period=max(1, steps // 4),
        reduction_factor=2,
        stop_last_trials=False,
    )


class Driver(tune.Trainable):
    """The actor of one trial: a thread runs its stages, and each result is a report of how far it is."""

    def setup(self, config: dict[str, Any], assignments: Sequence[Assignment], surroundings: Surroundings) -> None:
        """Starts the work."""
        logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")  # to Ray's log of this process
        for name in ("flows", "ray_jobs", "mmface"):
            logging.getLogger(name).setLevel(logging.INFO)
        self.assignment = assignments[config["trial"]]
        self.reports: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self.latest: dict[str, Any] = {STEPS: 0}
        self.offset = 0  # steps of earlier phases
        self.stopping = Event()
        self.thread = Thread(target=self._work, args=(surroundings,), daemon=True)
        self.thread.start()

    def step(self) -> dict[str, Any]:
        """The next report."""
        return self.reports.get()

    def cleanup(self) -> None:
        """Stops the job of a trial on a cluster; a job in this process ends with it."""
        self.stopping.set()
        if dashboard_address():
            self.thread.join(STOP_SECONDS)

    def _work(self, surroundings: Surroundings) -> None:
        end: dict[str, Any] = {"done": True}
        try:
            with surroundings.entered(), listening(self._hear):
                end[BUNDLE_URI] = self._carry_out()
        except _StoppedError:
            return
        except MMFaceError as error:
            end[FAILED] = str(error)
        except Exception as error:
            log.exception("%s failed", self.assignment.trial.name)
            end[FAILED] = describe(error)
        self._report(**end)

    def _carry_out(self) -> str:
        """Trains, paints, measures and records the figures; returns the URI of the bundle."""
        one = self.assignment
        name = f"{one.run.recipe.name}: {one.trial.name}"
        mlflow_run = tracking.start_run(name, {"mmface.recipe": one.run.recipe_uri}, key=one.key, parent=one.parent)
        tracking.log_parameters(mlflow_run, {**one.trial.changes, "train.seed": one.trial.seed})
        with tracked(one.run, mlflow_run) as run:
            trained = ""
            for trained in each_phase(run, one.data):
                self._replay(trained)
            bundle = paint_and_bundle(run, one.data, trained)
            tracking.log_metrics(mlflow_run, {k: v for k, v in figures_of(bundle).items() if math.isfinite(v)})
        return bundle

    def _hear(self, stage: str, news: Status | Figures) -> None:
        """Reports the news of a stage. In a trial that is being stopped, it ends the wait for a job on a cluster."""
        if self.stopping.is_set() and current_thread() is self.thread:
            raise _StoppedError
        if isinstance(news, Status):
            self._report(**{STAGE: f"{stage} {news}"})
        elif stage.startswith("train-"):
            measured = {} if news.held_out is None else {HELD_OUT: news.held_out}
            self._report(**{STAGE: stage, STEPS: self.offset + news.done, **measured})

    def _replay(self, trained: str) -> None:
        """Reports the held-out losses of a finished phase that were not reported while it was trained."""
        *_, (stage, offset, history) = histories(upstream(trained))
        for entry in history:
            steps = offset + int(entry["step"])
            if HELD_OUT in entry and steps >= self.latest[STEPS]:
                self._report(**{STAGE: stage, STEPS: steps, HELD_OUT: entry[HELD_OUT]})
        self.offset = offset + int(open_dataset(trained).manifest.extra["steps"])

    def _report(self, **news: Any) -> None:
        self.latest |= news
        self.reports.put(dict(self.latest))


class _StoppedError(Exception):
    """The trial is being stopped."""


class Narrator(tune.Callback):
    """Logs what the trials do.

    Args:
        names: of the trials, in their order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.shown: dict[str, tuple[str, float]] = {}

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Logs each new stage at once, and the steps of training now and then."""
        name, stage = self.names[trial.config["trial"]], str(result.get(STAGE, ""))
        before, at = self.shown.get(name, ("", -math.inf))
        if stage != before or time.monotonic() - at >= SHOW_SECONDS:
            self.shown[name] = stage, time.monotonic()
            loss = f"  held-out {result[HELD_OUT]:.4f}" if HELD_OUT in result else ""
            log.info("%s: %s  step %d%s", name, stage, result[STEPS], loss)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Logs the end of a trial."""
        name, last = self.names[trial.config["trial"]], trial.last_result
        early = not (last.get(BUNDLE_URI) or last.get(FAILED))
        log.info("%s: %s", name, f"stopped early after step {last[STEPS]}" if early else last.get(FAILED) or "finished")


def figures_of(bundle: str) -> dict[str, float]:
    """The metrics of a published bundle."""
    return read_metrics(open_dataset(bundle).read(f"{BUNDLE}/{METRICS}"))


def _outcome(one: Assignment, result: tune.Result) -> Outcome:
    last = result.metrics or {}
    found = Outcome(one.trial, last.get(HELD_OUT))
    if result.error is not None:
        return replace(found, failed=describe(result.error))
    if last.get(FAILED):
        return replace(found, failed=last[FAILED])
    if last.get(BUNDLE_URI):
        return replace(found, figures=figures_of(last[BUNDLE_URI]))
    return replace(found, stopped=int(last[STEPS]))


@contextmanager
def _connected() -> Iterator[None]:
    """Ray for Tune: the one that this process uses, that of ``RAY_ADDRESS``, or one started on this machine.

    Jobs are submitted to a dashboard from Ray on this machine: the actors of trials are light.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    address = None if dashboard_address() else ray_address()
    if address:
        ray.init(address=address)
    else:
        options = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
        ray.init(address="local", logging_level="warning", **options)
    yield
