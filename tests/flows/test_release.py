"""Which version becomes champion in a release, with a real MLflow on SQLite and real leases."""

from __future__ import annotations

import pytest

from flows.cluster.runner import run_job
from flows.steps.champions import Turn, roll_back
from flows.steps.line import Run
from flows.steps.promotion import promote
from flows.steps.warm import warm_up
from mmface.bundles import registry
from mmface.bundles.moves import PREVIOUS_TAG, read_past
from mmface.errors import ServiceError, StageError
from tests.flows.releases import BAD, GOOD, NAME, answers, champion, decide, loads, refuses, release


def test_only_a_version_that_passes_the_gate_becomes_champion_and_never_after_a_rollback(
    versions: list[str], run: Run
) -> None:
    first, second = versions
    assert release(run, GOOD, first)
    assert not release(run, BAD, second)
    assert champion() == first

    assert release(run, GOOD, second)
    assert champion() == second
    assert registry.rollback() == first

    # A scheduled run without changes brings the same version to the gate again.
    again = decide(run, GOOD, second)
    assert not again.passed
    assert again.reason == (
        f"version {second} was rolled back; champion stays version {first}; "
        f"change the recipe, or bring it back with mmface models promote {second} --why TEXT"
    )
    assert champion() == first


def test_a_former_champion_is_not_promoted_by_a_schedule(versions: list[str], run: Run) -> None:
    first, second = versions
    assert release(run, GOOD, first)
    assert release(run, GOOD, second)
    assert not release(run, GOOD, first)  # a weekly run finds the bundle of last week published
    assert champion() == second
    reason = decide(run, GOOD, first).reason
    assert reason.startswith(f"version {first} was champion before; champion stays version {second}; ")
    assert decide(run, GOOD, second).passed


def test_a_former_champion_does_not_become_challenger_again(versions: list[str], run: Run, mine: Turn) -> None:
    """A service that gives the challenger a share of the requests would serve it again."""
    first, second = versions
    for version in versions:
        mine.challenge(version)
        promote(run, mine, version, "passed", loads, answers)
    mine.challenge(first)
    assert registry.get_alias(NAME, "challenger") == second


def test_champions_recorded_by_earlier_releases_count_as_former_champions(versions: list[str], run: Run) -> None:
    """Earlier releases only tagged each champion with the previous champion."""
    first, second = versions
    client = registry.open_tracking()
    for version, before in ((first, ""), (second, first)):
        client.set_model_version_tag(NAME, version, PREVIOUS_TAG.format(alias="champion"), before)
        client.set_registered_model_alias(NAME, "champion", version)
    assert not release(run, GOOD, first)
    assert roll_back(run.home, NAME, None, "blurred hair") == (second, first)
    assert not release(run, GOOD, second)
    assert champion() == first


def test_each_move_of_the_champion_records_who_when_and_why(versions: list[str], run: Run) -> None:
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


def test_a_version_that_cannot_be_loaded_does_not_replace_the_champion(
    versions: list[str], run: Run, mine: Turn
) -> None:
    """The warm-up runs in a real process; the version contains only a README."""
    first, second = versions
    registry.set_alias(NAME, "champion", first)
    why = "is not a complete bundle"
    message = rf"version {second} does not become champion: .*{why}.*; champion stays version {first}"
    with pytest.raises(StageError, match=message):
        promote(run, mine, second, "passed", run_job, answers)
    assert champion() == first
    assert decide(run, GOOD, second).passed  # it never was champion, so it may be tried again


def test_on_a_cluster_a_job_loads_the_version(versions: list[str], run: Run) -> None:
    job = warm_up(run, versions[0])
    receipt = f"warm/{job.identity.fingerprint}.json"
    given = f"--recipe {run.recipe_uri} --home {run.home.uri} --version {versions[0]} --receipt {receipt}"
    assert job.entrypoint == f"python -m serve.deploy.warm {given}"
    assert job.environment["MLFLOW_TRACKING_URI"].startswith("sqlite:///")
    assert job.published() is None
    run.home.write(receipt, b"{}")
    assert job.published() == f"{run.home.uri}/{receipt}"
    assert warm_up(run, versions[0]).published() is None  # the receipt of the earlier warm-up was deleted


def test_the_previous_champion_is_restored_when_the_service_refuses(versions: list[str], run: Run) -> None:
    first, second = versions
    release(run, GOOD, first)
    with pytest.raises(ServiceError, match=f"version {second} does .*: answers 500; champion stays version {first}"):
        release(run, GOOD, second, refuses)
    assert champion() == first
    last = read_past(NAME).moves[-1]
    assert (last.origin, last.to, last.kind) == (second, first, "refused")
    assert not decide(run, GOOD, second).passed  # or a schedule would try it every night


def test_without_a_previous_champion_a_refused_version_leaves_no_champion(versions: list[str], run: Run) -> None:
    first, _ = versions
    with pytest.raises(ServiceError, match="answers 500; there is no champion"):
        release(run, GOOD, first, refuses)
    assert champion() is None
    assert release(run, GOOD, first)  # when the service works again
    assert champion() == first
