"""Who becomes champion, on a real SQLite MLflow and real leases."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from flows.cli.command_line import main
from flows.cluster import leases
from flows.cluster.jobs import Job, run_job
from flows.cluster.leases import Owner
from flows.release import gate
from flows.steps.champions import Turn, roll_back, turn
from flows.steps.line import Run
from flows.steps.promotion import promote
from flows.steps.warm import warm_up
from mmface.bundles import registry
from mmface.bundles.moves import PREVIOUS_TAG, read_past
from mmface.config.load import load_recipe
from mmface.errors import RegistryError, ServiceError, StageError
from mmface.store import Store

GOOD, BAD = ({"mask/miou": value, "mask/hair_colour_accuracy": value} for value in (0.9, 0.01))
NAME = "mmface-dit"


@pytest.fixture
def home(migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MMFACE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(leases, "WAIT_SECONDS", 0.01)
    (tmp_path / "home").mkdir()
    shutil.copy(migrated, tmp_path / "home" / "mlflow.db")
    return Store(tmp_path / "home")


@pytest.fixture
def versions(home: Store, tmp_path: Path) -> list[str]:
    """Two registered versions; nobody is champion yet."""
    run = registry.start_run("r")
    made = []
    for text in ("one", "two"):
        (tmp_path / text).mkdir()
        (tmp_path / text / "README.md").write_text(text)  # registering needs files, not a loadable model
        made.append(registry.register_bundle(tmp_path / text, run))
    return made


@pytest.fixture
def run(home: Store) -> Run:
    recipe = load_recipe("demo")
    home.write("recipe.yaml", recipe.to_yaml().encode())
    return Run(recipe, f"{home.uri}/recipe.yaml", home, None, "")


@pytest.fixture
def mine(home: Store) -> Iterator[Turn]:
    with turn(home, NAME) as held:
        yield held


def champion() -> str | None:
    return registry.get_alias(NAME, "champion")


def loads(job: Job) -> None:
    """A warm-up that went well."""


def answers() -> None:
    """A service that paints with the version."""


def refuses() -> None:
    raise ServiceError("answers 500", field="MMFACE_SERVE_URL")


def release(run: Run, metrics: dict[str, float], version: str, confirm: Callable[[], None] = answers) -> bool:
    """What a schedule does with a bundle that is found or made."""
    decision = gate.fn(run.recipe, metrics, version)
    if decision.passed:
        with turn(run.home, NAME) as held:
            promote(run, held, version, decision.reason, loads, confirm)
    return decision.passed


def test_only_who_passes_becomes_champion_and_who_was_rolled_back_never_again(versions: list[str], run: Run) -> None:
    first, second = versions
    assert release(run, GOOD, first)
    assert not release(run, BAD, second)
    assert champion() == first

    assert release(run, GOOD, second)
    assert champion() == second
    assert registry.rollback() == first

    # The schedule retrains with nothing changed: the same version stands at the gate again.
    again = gate.fn(run.recipe, GOOD, second)
    assert not again.passed
    assert again.reason == (
        f"version {second} was rolled back; champion stays version {first}; "
        f"change the recipe, or bring it back with mmface promote {second} --why TEXT"
    )
    assert champion() == first


def test_a_version_that_was_champion_does_not_return_by_a_schedule(versions: list[str], run: Run) -> None:
    first, second = versions
    assert release(run, GOOD, first)
    assert release(run, GOOD, second)
    assert not release(run, GOOD, first)  # a weekly run finds its bundle of last week published
    assert champion() == second
    reason = gate.fn(run.recipe, GOOD, first).reason
    assert reason.startswith(f"version {first} was champion before; champion stays version {second}; ")
    assert gate.fn(run.recipe, GOOD, second).passed


def test_a_version_that_was_champion_is_no_challenger_again(versions: list[str], run: Run, mine: Turn) -> None:
    """Whoever serves the challenger to some of the requests would have served it again."""
    first, second = versions
    for version in versions:
        mine.challenge(version)
        promote(run, mine, version, "passed", loads, answers)
    mine.challenge(first)
    assert registry.get_alias(NAME, "challenger") == second


def test_champions_of_earlier_releases_count_too(versions: list[str], run: Run) -> None:
    """They tagged a champion with who was champion before it, and recorded nothing else."""
    first, second = versions
    client = registry.open_tracking()
    for version, before in ((first, ""), (second, first)):
        client.set_model_version_tag(NAME, version, PREVIOUS_TAG.format(alias="champion"), before)
        client.set_registered_model_alias(NAME, "champion", version)
    assert not release(run, GOOD, first)
    assert roll_back(run.home, NAME, None, "blurred hair") == (second, first)
    assert not release(run, GOOD, second)
    assert champion() == first


def test_who_moved_the_champion_when_and_why_is_recorded(versions: list[str], run: Run) -> None:
    first, second = versions
    release(run, GOOD, first)
    release(run, GOOD, second)
    roll_back(run.home, NAME, second, "blurred hair", "1234")
    moves = read_past(NAME).moves
    assert [(one.number, one.origin, one.to, one.kind) for one in moves] == [
        (1, None, first, "promoted"),
        (2, first, second, "promoted"),
        (3, second, first, "rolled back"),
    ]
    assert moves[-1].why == "blurred hair"
    assert "flow run 1234, process " in moves[-1].who
    assert moves[-1].when.endswith("+00:00")


def test_a_version_that_cannot_be_loaded_leaves_the_champion(versions: list[str], run: Run, mine: Turn) -> None:
    """In a real process of its own: the version is a README alone."""
    first, second = versions
    registry.set_alias(NAME, "champion", first)
    said = rf"version {second} does not become champion: .*is not a complete bundle.*; champion stays version {first}"
    with pytest.raises(StageError, match=said):
        promote(run, mine, second, "passed", run_job, answers)
    assert champion() == first
    assert gate.fn(run.recipe, GOOD, second).passed  # it never was champion


def test_on_a_cluster_the_version_is_loaded_by_a_job_of_its_own(versions: list[str], run: Run) -> None:
    job = warm_up(run, versions[0])
    receipt = f"warm/{job.identity.fingerprint}.json"
    given = f"--recipe {run.recipe_uri} --home {run.home.uri} --version {versions[0]} --receipt {receipt}"
    assert job.entrypoint == f"python -m serve.deploy.warm {given}"
    assert job.environment["MLFLOW_TRACKING_URI"].startswith("sqlite:///")
    assert job.published() is None
    run.home.write(receipt, b"{}")
    assert job.published() == f"{run.home.uri}/{receipt}"
    assert warm_up(run, versions[0]).published() is None  # it says what loads now, not what once did


def test_a_service_that_refuses_gets_the_champion_before_it_back(versions: list[str], run: Run) -> None:
    first, second = versions
    release(run, GOOD, first)
    with pytest.raises(ServiceError, match=f"version {second} does .*: answers 500; champion stays version {first}"):
        release(run, GOOD, second, refuses)
    assert champion() == first
    last = read_past(NAME).moves[-1]
    assert (last.origin, last.to, last.kind) == (second, first, "withdrawn")
    assert not gate.fn(run.recipe, GOOD, second).passed  # not every night again


def test_without_a_champion_before_it_a_refused_version_leaves_none(versions: list[str], run: Run) -> None:
    first, _ = versions
    with pytest.raises(ServiceError, match="answers 500; there is no champion"):
        release(run, GOOD, first, refuses)
    assert champion() is None
    assert release(run, GOOD, first)  # once the service is mended
    assert champion() == first


def test_an_interrupted_release_can_be_run_again(versions: list[str], run: Run) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    first, second = versions
    release(run, GOOD, first)
    with pytest.raises(KeyboardInterrupt):
        release(run, GOOD, second, interrupt)
    assert champion() == first
    assert release(run, GOOD, second)
    assert champion() == second


def test_a_rollback_that_races_a_promotion_leaves_the_good_version(versions: list[str], run: Run, mine: Turn) -> None:
    """It waits for its turn, and then finds another champion than the one that was to go."""
    first, second = versions
    registry.set_alias(NAME, "champion", first)
    told: list[BaseException] = []
    waits = threading.Event()

    def demote() -> None:
        try:
            roll_back(run.home, NAME, None, "it is bad")
        except RegistryError as error:
            told.append(error)

    racer = threading.Thread(target=demote)
    taken = leases.take

    def take(*given: object) -> object:
        waits.set()  # the version that has to go is named by now
        return taken(*given)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leases, "take", take)
        racer.start()
        assert waits.wait(30)
        promote(run, mine, second, "passed", loads, answers)
        assert racer.is_alive()
        mine.lease.release()
        racer.join(30)
    assert [str(one) for one in told] == [
        f"version: version {second} is now champion of {NAME}, not {first}; nothing was rolled back"
    ]
    assert champion() == second
    assert gate.fn(run.recipe, GOOD, second).passed


def test_who_has_lost_the_lease_moves_nothing(versions: list[str], run: Run, mine: Turn) -> None:
    """It was taken over while the process slept; the beat of the lease has not noticed yet."""
    first, second = versions
    registry.set_alias(NAME, "champion", first)
    number = int(Path(mine.lease.key).stem) + 1
    other = replace(Owner.this(""), pid=1)
    run.home.write(f"leases/release-{NAME}/{number:08d}.json", json.dumps(asdict(other)).encode())
    with pytest.raises(StageError, match="another process took over this work"):
        promote(run, mine, second, "passed", loads, answers)
    assert champion() == first


def test_an_alias_that_is_elsewhere_by_now_is_not_moved(versions: list[str], mine: Turn) -> None:
    first, second = versions
    registry.set_alias(NAME, "champion", second)  # by hand, in MLflow
    with pytest.raises(RegistryError, match=f"version {second} is now champion of {NAME}, not none"):
        mine.move(first, expected=None, kind="promoted", why="passed")
    assert champion() == second


def test_by_hand_a_rollback_names_what_it_removes(
    versions: list[str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = versions
    release(run, GOOD, first)
    release(run, GOOD, second)
    assert main(["rollback", first]) == 2
    assert f"version {second} is now champion of {NAME}, not {first}" in capsys.readouterr().err
    assert main(["rollback", second, "--why", "blurred hair"]) == 0
    assert capsys.readouterr().out == (
        f"version {second} of {NAME} was rolled back; champion is version {first} again\n"
    )
    assert main(["promote", second, "--why", " "]) == 2
    assert main(["promote", "7", "--why", "mended"]) == 2
    assert champion() == first
