"""Interrupted, simultaneous and manual moves of the champion, with a real MLflow on SQLite and real leases."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from flows.cli.command_line import main
from flows.steps.champions import Turn, roll_back
from flows.steps.line import Run
from flows.steps.promotion import promote
from mmface.bundles import registry
from mmface.bundles.moves import read_past
from mmface.errors import RegistryError, ServiceError, StageError, UnreachableError
from mmface.store import leases
from mmface.store.leases import Owner
from tests.flows.releases import GOOD, NAME, answers, champion, decide, loads, release


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


def test_a_rollback_during_a_promotion_does_not_remove_the_new_champion(
    versions: list[str], run: Run, mine: Turn
) -> None:
    """It waits for the lease, and then finds another champion than the version that it was to roll back."""
    first, second = versions
    registry.set_alias(NAME, "champion", first)
    errors: list[BaseException] = []
    waits = threading.Event()

    def demote() -> None:
        try:
            roll_back(run.home, NAME, None, "it is bad")
        except RegistryError as error:
            errors.append(error)

    racer = threading.Thread(target=demote)
    taken = leases.take

    def take(*given: object) -> object:
        waits.set()  # the version to roll back is chosen now
        return taken(*given)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leases, "take", take)
        racer.start()
        assert waits.wait(30)
        promote(run, mine, second, "passed", loads, answers)
        assert racer.is_alive()
        mine.lease.release()
        racer.join(30)
    assert [str(one) for one in errors] == [
        f"version: version {second} is now champion of {NAME}, not {first}; nothing was rolled back"
    ]
    assert champion() == second
    assert decide(run, GOOD, second).passed


def test_a_process_that_lost_the_lease_moves_nothing(versions: list[str], run: Run, mine: Turn) -> None:
    """Another process took the lease while this one slept; the heartbeat has not noticed yet."""
    first, second = versions
    registry.set_alias(NAME, "champion", first)
    number = int(Path(mine.lease.key).stem) + 1
    other = replace(Owner.this(""), pid=1)
    run.home.write(f"leases/release-{NAME}/{number:08d}.json", json.dumps(asdict(other)).encode())
    with pytest.raises(StageError, match="another process took over this work"):
        promote(run, mine, second, "passed", loads, answers)
    assert champion() == first


def test_an_alias_that_was_moved_meanwhile_is_not_moved(versions: list[str], mine: Turn) -> None:
    first, second = versions
    registry.set_alias(NAME, "champion", second)  # moved by hand in MLflow
    with pytest.raises(RegistryError, match=f"version {second} is now champion of {NAME}, not none"):
        mine.move(first, expected=None, kind="promoted", why="passed")
    assert champion() == second


def test_a_registry_that_goes_down_during_a_promotion_is_named(
    versions: list[str], run: Run, mine: Turn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service refuses the version, and the registry does not answer when the former champion is put back."""
    first, _ = versions

    def goes_down() -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        raise ServiceError("answers 500", field="MMFACE_SERVE_URL")

    message = "MLflow does not answer at .*; the registry does not say which version is champion"
    with pytest.raises(UnreachableError, match=message):
        promote(run, mine, first, "passed", loads, goes_down)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert champion() == first
    assert read_past(NAME).recorded
    promote(run, mine, first, "passed", loads, answers)  # the next run asks the service again


def test_a_manual_rollback_names_the_version_that_it_removes(
    versions: list[str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = versions
    release(run, GOOD, first)
    release(run, GOOD, second)
    assert main(["models", "rollback", first]) == 2
    assert f"version {second} is now champion of {NAME}, not {first}" in capsys.readouterr().err
    assert main(["models", "rollback", second, "--why", "blurred hair"]) == 0
    assert capsys.readouterr().out == (
        f"version {second} of {NAME} was rolled back; champion is version {first} again\n"
    )
    assert main(["models", "promote", second, "--why", " "]) == 2
    assert main(["models", "promote", "7", "--why", "mended"]) == 2
    assert champion() == first
