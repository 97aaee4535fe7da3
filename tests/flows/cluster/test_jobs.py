"""Jobs on a real Ray head that requires a token: submit, attach, retry, stop, reap."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
from ray.job_submission import JobStatus

from flows.cli.command_line import main
from flows.cluster import ledger
from flows.cluster.client import Cluster, State
from flows.cluster.jobs import Job, save_recipe
from flows.cluster.reap import reap_jobs
from flows.cluster.runner import run_job, submit
from flows.steps.preflight import check
from mmface import plan
from mmface.config import Jobs, Resources
from mmface.config.load import load_recipe
from mmface.errors import CredentialsError, RecipeError, StageError, UnreachableError
from mmface.store import HOME_VARIABLE, Store, leases
from tests.flows.conftest import ROOT, Head

DRIVER = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s")
from tests.flows.cluster.test_jobs import Sleeper, portraits
from flows.cluster.runner import run_job
from mmface.store import Store
run_job(Sleeper.of(Store(sys.argv[1]), "run-of-the-driver"))
"""


class Sleeper(Job):
    """A job whose entrypoint sleeps instead of running a stage."""

    @property
    def entrypoint(self) -> str:
        return "sleep 600"

    @classmethod
    def of(cls, home: Store, flow_run: str = "", **options: Any) -> Self:
        job = portraits(home, 2)
        return cls(job.stage, job.identity, job.recipe, home, flow_run=flow_run, **options)


class Idler(Sleeper):
    @property
    def entrypoint(self) -> str:
        return "true"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    return Store(tmp_path / "home")


def portraits(home: Store, n: int) -> Job:
    # A seed from the folder's name gives each test its own job: the tests share a cluster.
    seed = sum(home.uri.encode()) % 10_000
    recipe = load_recipe("demo", [f"portraits.n={n}", "portraits.size=32", "data.workers=1", f"seed={seed}"])
    return Job("portraits", plan.portraits(recipe), save_recipe(home, recipe), home)


def driver(home: Store) -> subprocess.Popen[str]:
    """Starts a process that waits for the job, as a flow does."""
    command = [sys.executable, "-c", DRIVER, home.uri]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def until(true: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.2)


def status(cluster: Head, job: Job, attempt: int = 0) -> JobStatus | None:
    state = Cluster(cluster.address).find(job.attempt(attempt))
    return state.status if state else None


class Recorder:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.links: list[str] = []

    def submitted(self, submission_id: str, link: str) -> None:
        self.links.append(link)

    def line(self, text: str) -> None:
        self.lines.append(text)


def test_a_job_publishes_its_dataset_and_passes_its_log_on(cluster: Head, home: Store) -> None:
    job, heard = portraits(home, 3), Recorder()
    uri = run_job(job, heard)
    assert uri == job.published()
    assert heard.links == [f"{cluster.address}/#/jobs/{job.attempt(0)}"]
    assert sum("portraits: 1 of 1 parts, 3 rows" in line for line in heard.lines) == 1
    entry = ledger.find(home, job.attempt(0))
    assert entry is not None
    assert (entry.address, entry.session) == (cluster.address, Cluster(cluster.address).session())
    assert run_job(job, heard) == uri
    assert len(heard.links) == 1  # found published, not run again


def test_a_user_error_in_a_job_is_one_line_and_is_not_retried(cluster: Head, home: Store) -> None:
    recipe = load_recipe("demo")
    identity = plan.captions(recipe, f"{home.uri}/datasets/images/none", f"{home.uri}/datasets/conditions/none")
    job = Job("captions", identity, save_recipe(home, recipe), home)
    with pytest.raises(StageError, match=r"captions: job mmface-captions-\w+-0 failed: uri: .*has no manifest"):
        run_job(job, Recorder())
    assert status(cluster, job, 1) is None
    assert leases.holder(home, job.lease) is None


def test_the_job_of_a_killed_flow_continues_and_stops_with_the_flow_that_attaches_to_it(
    cluster: Head, home: Store
) -> None:
    job = Sleeper.of(home)
    first = driver(home)
    until(lambda: status(cluster, job) == JobStatus.RUNNING)
    waiting = driver(home)
    assert waiting.stderr is not None
    line = next(line for line in waiting.stderr if "which works on it" in line)
    assert f"waiting for flow run run-of-the-driver, process {first.pid}" in line
    first.kill()
    first.wait()
    line = next(line for line in waiting.stderr if "attached" in line)
    assert f"attached to job {job.attempt(0)}" in line
    assert status(cluster, job) == JobStatus.RUNNING

    start = time.monotonic()
    waiting.send_signal(signal.SIGINT)
    waiting.wait(60)
    assert status(cluster, job) == JobStatus.STOPPED
    assert time.monotonic() - start < 30
    assert leases.holder(home, job.lease) is None
    assert status(cluster, job, 1) is None


def test_the_reaper_stops_the_job_of_a_killed_flow(
    cluster: Head, home: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Sleeper.of(home)
    flow = driver(home)
    until(lambda: status(cluster, job) == JobStatus.RUNNING)
    assert reap_jobs(home) == []  # its flow waits for it
    assert main(["jobs", "list", "--running"]) == 0
    assert f"process {flow.pid}" in capsys.readouterr().out
    flow.kill()
    flow.wait()
    assert reap_jobs(home, flow_run="another") == []
    assert main(["jobs", "list", "--running"]) == 0
    assert "none (mmface reap stops it)" in capsys.readouterr().out
    assert reap_jobs(home, flow_run="run-of-the-driver") == [job.attempt(0)]
    assert status(cluster, job) == JobStatus.STOPPED
    assert list(leases.dead(home)) == []

    assert main(["jobs", "stop", job.attempt(0)]) == 0
    assert "had already ended" in capsys.readouterr().out
    assert main(["jobs", "logs", job.attempt(0)]) == 0
    assert "Running entrypoint" in capsys.readouterr().out
    assert main(["jobs", "logs", "mmface-none"]) == 2


def test_a_second_submission_of_a_stage_attaches_to_the_first(cluster: Head, home: Store) -> None:
    job = Sleeper.of(home)
    here = Cluster(cluster.address)
    assert submit(job, here) == submit(job, here) == job.attempt(0)
    assert not here.submit(job.attempt(0), "true", Resources(), {})
    # Its lease has no owner and its job runs on our cluster: an orphan of this home.
    assert reap_jobs(home) == [job.attempt(0)]


def test_a_job_that_a_restarted_cluster_does_not_know_gets_another_attempt(cluster: Head, home: Store) -> None:
    job = Idler.of(home)
    lost = ledger.Entry(job.attempt(0), "portraits", [], cluster.address, "session-before", "", job.lease)
    ledger.record(home, lost)
    for attempt in (1, 2):  # attempt 1 succeeded, but without a dataset there is nothing to wait for
        with pytest.raises(StageError, match="the job ended but published nothing"):
            run_job(job, Recorder())
        assert status(cluster, job, attempt) == JobStatus.SUCCEEDED
    assert status(cluster, job, 0) is None
    assert ledger.newest(home, job.lease) == ledger.find(home, job.attempt(2))


def test_a_stage_that_takes_too_long_is_stopped(cluster: Head, home: Store) -> None:
    job = Sleeper.of(home, settings=Jobs(timeout_s={"portraits": 5}))
    with pytest.raises(StageError, match=r"jobs.timeout_s.portraits: the stage took longer than 5 s"):
        run_job(job, Recorder())
    assert status(cluster, job) == JobStatus.STOPPED


# Without a token, Ray sends its own if it has generated one in this process.
@pytest.mark.parametrize(("token", "what"), [("f" * 32, "refuses the token"), (None, "(requires a|refuses the) token")])
def test_a_wrong_token_is_named(
    token: str | None, what: str, cluster: Head, home: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token:
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    else:
        monkeypatch.delenv("RAY_AUTH_TOKEN")
    with pytest.raises(CredentialsError, match=f"RAY_AUTH_TOKEN: the Ray cluster at .* {what}") as caught:
        check(load_recipe("demo"))
    assert not isinstance(caught.value, UnreachableError)


def test_a_cluster_with_too_few_gpus_is_refused_unless_it_scales(cluster: Head, home: Store) -> None:
    gpus = ["train.use_gpu=true", "train.num_workers=2"]
    with pytest.raises(RecipeError, match=r"train.num_workers: training needs 2 GPUs, but the cluster .* has 0"):
        check(load_recipe("demo", gpus))
    check(load_recipe("demo", [*gpus, "jobs.autoscaling=true"]))


def test_requests_to_an_unreachable_head_are_retried_then_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    start = time.monotonic()
    with pytest.raises(UnreachableError, match="RAY_ADDRESS: no Ray dashboard answers"):
        Cluster("http://127.0.0.1:9", patience=1.5)
    assert 1 <= time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("state", "lost"),
    [
        (State(JobStatus.FAILED, 75), True),  # a service did not answer
        (State(JobStatus.FAILED, -9), True),
        (State(JobStatus.FAILED, 137), True),
        (State(JobStatus.FAILED, None, "JOB_SUPERVISOR_ACTOR_DIED"), True),
        (State(JobStatus.FAILED, None, "RUNTIME_ENV_SETUP_FAILURE"), False),
        (State(JobStatus.FAILED, 1), False),
        (State(JobStatus.FAILED, 2), False),
        (State(JobStatus.STOPPED), False),
        (State(JobStatus.SUCCEEDED, 0), False),
    ],
)
def test_which_failures_are_worth_another_attempt(state: State, lost: bool) -> None:
    assert state.lost == lost
