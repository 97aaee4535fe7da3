"""Kills any process of the stack (SIGKILL) at seeded random moments of a retraining; its end state must not change.

`mmface up` restarts services. A dead flow run is marked as crashed, as Prefect's heartbeat automation does after
minutes, and started again, as the next night's schedule would. `make faults` tries twenty moments, four in each
retraining, and prints a table; a plain test run tries two moments in one retraining.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest

from flows.stack.processes import Family, Process
from mmface.errors import MMFaceError
from mmface.store import home
from tests.end_state import UNDISTURBED, EndState, end_state
from tests.stack import Stack, ended, inside, pause, stack, start, state_of, upload_photographs, wait_for

MOMENTS = int(os.environ.get("FAULT_MOMENTS", "2"))
SEED = int(os.environ.get("FAULT_SEED", "3"))
A_RUN = 4  # moments in one retraining
KINDS = ("flow", "worker", "prefect", "ray", "ray worker", "ray agent", "mlflow", "s3", "serve")
DEPLOYMENT = "retrain/full"
STAGES = 8
REACH_SECONDS = 1200.0  # a retraining takes a few minutes; a restarted service is back within two

pytestmark = pytest.mark.timeout(4 * 3600)


@dataclass
class Moment:
    """One kill; a row of the table.

    Attributes:
        after: number of published datasets to wait for.
        delay: seconds to wait after that.
    """

    kind: str
    after: int
    delay: float
    victim: str = "-"
    flow: str = ""
    outcome: str = ""


TABLE: list[Moment] = []


def moments(chance: random.Random, kinds: list[str]) -> list[Moment]:
    """Random moments in order; the service is killed last, because it does not run earlier."""
    drawn = [
        Moment(kind, STAGES if kind == "serve" else chance.randrange(STAGES), chance.uniform(0, 12)) for kind in kinds
    ]
    return sorted(drawn, key=lambda one: one.after)


def plan() -> list[list[Moment]]:
    """The moments of each retraining; every kind is used in turn, in random order."""
    chance = random.Random(SEED)  # noqa: S311
    kinds: list[str] = []
    while len(kinds) < MOMENTS:
        kinds += chance.sample(KINDS, len(KINDS))
    kinds = kinds[:MOMENTS]
    return [moments(chance, kinds[i : i + A_RUN]) for i in range(0, MOMENTS, A_RUN)]


@contextmanager
def tiny_stack(folder: Path) -> Iterator[Stack]:
    """A stack with photographs and deployments."""
    with stack(folder / "stack", "--set", "serve.follow_s=1") as up, inside(up.environment):
        upload_photographs(16, folder / "photos")
        deployed = up.mmface("deploy", *(part for one in up.settings() for part in ("--set", one)))
        assert deployed.returncode == 0, deployed.stderr
        for periodic in ("watch/periodic", "reap/periodic"):
            pause(periodic)
        yield up


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> EndState:
    """Of the retraining of ``tests/e2e/test_cluster_mode.py`` where that ran before, else of one made here."""
    if UNDISTURBED in request.session.stash:
        return request.session.stash[UNDISTURBED]
    with tiny_stack(tmp_path_factory.mktemp("undisturbed")) as up:
        run = start(DEPLOYMENT)
        state = wait_for(lambda: ended(run), 1800, "the undisturbed retraining")
        assert state.is_completed(), state.message
        return checked(up)


@pytest.mark.parametrize("number", range(len(plan())))
def test_a_retraining_with_killed_processes_has_the_same_end_state(number: int, undisturbed: EndState, tmp_path: Path):
    struck = plan()[number]
    TABLE.extend(struck)
    with tiny_stack(tmp_path) as up:
        run = start(DEPLOYMENT)
        for moment in struck:
            run = reach(up, run, moment)
            strike(up, run, moment)
        run = complete(up, run)
        made = checked(up)
    for moment in struck:
        moment.outcome = "identical" if made == undisturbed else "DIFFERS"
    assert made == undisturbed


def checked(up: Stack) -> EndState:
    """The end state; checks that the champion is served and no job is left."""
    from flows.cluster.client import Cluster

    made = end_state()
    assert made.nothing_left, made
    wait_for(lambda: serves(up), 300, "the champion's service")
    assert all(job.status.is_terminal() for job in Cluster(up.environment["RAY_ADDRESS"]).jobs())
    return made


def serves(up: Stack) -> bool:
    """Whether the service is ready."""
    import httpx

    try:
        return httpx.get(f"{up.environment['MMFACE_SERVE_URL']}/readyz", timeout=60).status_code == 200
    except httpx.HTTPError:
        return False


def reach(up: Stack, run: UUID, moment: Moment) -> UUID:
    """Waits for a moment and restarts the flow when it dies; returns the present flow run."""
    until = time.monotonic() + REACH_SECONDS
    while published() < moment.after:
        if time.monotonic() > until:
            raise TimeoutError(f"{moment} did not come: {state_of(run)}\n{up.log('worker')}")
        run = revive(up, run)
        time.sleep(0.2)
    if moment.kind == "serve":
        wait_for(lambda: find(up, run, "serve"), 600, "Serve's controller")
    time.sleep(moment.delay)
    return run


def complete(up: Stack, run: UUID) -> UUID:
    """Waits until the flow has completed, restarting it when it dies; returns the flow run."""
    until = time.monotonic() + REACH_SECONDS
    while time.monotonic() < until:
        state = state_of(run)
        if state is not None and state.is_completed():
            return run
        run = revive(up, run)
        time.sleep(0.5)
    raise TimeoutError(f"the flow did not complete: {state_of(run)}\n{up.log('worker')}")


def revive(up: Stack, run: UUID) -> UUID:
    """The same flow run, or a new one of the same deployment if it has failed or its process is gone."""
    state = state_of(run)
    if state is None or state.is_scheduled() or state.is_completed():
        return run
    if state.is_pending() or (not state.is_final() and find(up, run, "flow")):
        return run
    if not state.is_final():
        time.sleep(5.0)  # the worker reports the end of the process
        if not (state := state_of(run)) or (not state.is_final() and not mark_crashed(run)):
            return run
    reaped = up.mmface("reap")
    if reaped.returncode:
        return run  # a server is still starting
    return start(DEPLOYMENT)


def mark_crashed(run: UUID) -> bool:
    """Marks a flow run as crashed, like the automation for missing heartbeats; False if Prefect does not answer."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.states import Crashed

    try:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run, Crashed(message="no heartbeat"), force=True)
    except httpx.HTTPError:
        return False
    return True


def published() -> int:
    """The number of published datasets; 0 while the store does not answer."""
    try:
        return sum(entry.key.endswith("/manifest.json") for entry in home().list("datasets"))
    except MMFaceError:
        return 0


def strike(up: Stack, run: UUID, moment: Moment) -> None:
    """Kills one process of the kind; waits for one, since a flow may just be restarting."""
    found = wait_for(lambda: find(up, run, moment.kind), 300, f"a process of the kind {moment.kind}")
    victim = random.Random(f"{SEED}{moment}").choice(found)  # noqa: S311
    moment.victim = command(victim)[-40:].strip()
    state = state_of(run)
    moment.flow = state.name if state else "no answer"
    victim.send(signal.SIGKILL)


def find(up: Stack, run: UUID, kind: str) -> list[Process]:
    """The processes of a kind."""
    services = {name: one["process"]["pid"] for name, one in up.state()["services"].items()}
    family = Family()
    under_ray = [(one, command(one)) for one in sorted(family.under([services["ray"]]))]
    if kind == "flow":
        return [one for one in sorted(family.under([services["worker"]])) if "prefect.engine" in command(one)]
    if kind == "serve":
        return [one for one, name in under_ray if name.startswith("ray::ServeController")]
    if kind in ("ray worker", "ray agent"):
        wanted = kind == "ray agent"
        return [one for one, name in under_ray if name.startswith("ray::") and ("Agent" in name.split()[0]) == wanted]
    if kind == "ray":
        parts = [one for one, name in under_ray if "/gcs_server " in name or "/raylet " in name]
        return [Process.of(services["ray"]), *parts]
    return [Process.of(services[kind])]


def command(process: Process) -> str:
    """The command line of a process."""
    try:
        return Path(f"/proc/{process.pid}/cmdline").read_text(errors="replace").replace("\0", " ").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.fixture(scope="module", autouse=True)
def table():
    yield
    print(f"\n{'killed':<12}{'datasets':>9}{'seconds':>9}  {'flow':<12}{'end state':<11}victim")
    for one in TABLE:
        print(f"{one.kind:<12}{one.after:>9}{one.delay:>9.1f}  {one.flow:<12}{one.outcome or 'FAILED':<11}{one.victim}")
    print(f"{sum(bool(one.flow) for one in TABLE)} kills")
