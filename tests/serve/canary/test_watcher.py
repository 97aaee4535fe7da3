"""The trial of a canary in a real registry: what is promoted, what is withdrawn, and when nothing is moved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from flows.steps.champions import turn
from mmface.bundles.aliases import get_alias, mark_rolled_back, move_alias
from mmface.bundles.moves import read_past
from mmface.bundles.tracking import open_tracking, start_run
from mmface.data.portraits import draw
from mmface.store import Store
from serve.canary.judge import Judge
from serve.canary.observer import Observation, Sample
from serve.canary.trial import Trial
from serve.canary.watcher import DECISION_TAG, PASSED, VERDICT_TAG, Watcher
from tests.serve.service import tiny_recipe

NAME = "mmface-dit"
BLANK = Sample(np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.uint8), "crop")
LIMITS = {"max_error_increase": 0.3, "max_slowdown": 0.5, "max_agreement_loss": 0.3, "min_requests": 10}


class Shown:
    """Keeps what the metrics would show."""

    def __init__(self) -> None:
        self.decisions: list[tuple[str, str]] = []
        self.skips: list[tuple[str, str]] = []

    def progress(self, trial: Trial) -> None:
        assert trial.requests >= 0

    def decided(self, version: str, outcome: str) -> None:
        self.decisions.append((version, outcome))

    def skipped(self, version: str, reason: str) -> None:
        self.skips.append((version, reason))


@pytest.fixture
def client(tmp_path: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A registry with three versions without files: 1 is champion, 2 passed the gate and is challenger."""
    shutil.copy(migrated, tmp_path / "mlflow.db")
    monkeypatch.setenv("MMFACE_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    client, run = open_tracking(), start_run("tiny")
    client.create_registered_model(NAME)
    for _ in range(3):
        client.create_model_version(NAME, str(tmp_path), run)
    move_alias(NAME, "champion", "1", expected=None, kind="forced", why="the first")
    move_alias(NAME, "challenger", "2", expected=None, kind="set", why="registered")
    client.set_model_version_tag(NAME, "2", VERDICT_TAG, PASSED)
    return client


def watcher(tmp_path: Path, judge: Any = lambda sample: 0.6, **canary: Any) -> tuple[Watcher, Shown]:
    section = {"alias": "challenger", "share": 0.5, "auto": True} | LIMITS | canary
    shown = Shown()
    return Watcher(tiny_recipe(canary=section, follow_s=1000).serve, Store(tmp_path), judge, shown), shown


def answers(**canary: Any) -> Iterator[list[Observation]]:
    """One answer of each version, for ever; ``canary`` is what is special about the canary's."""
    for seed in count(0, 2):
        good = Observation("1", "2", False, seed, failed=False, duration=1.0, sample=BLANK)
        yield [good, replace(good, by_canary=True, seed=seed + 1, **canary)]


def feed(watching: Watcher, shown: Shown, pairs: Iterator[list[Observation]], most: int = 60) -> None:
    for _ in range(most):
        watching.observe(next(pairs))
        while watching.step():
            pass
        if shown.decisions:
            return


def test_a_healthy_canary_becomes_champion(
    client: MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watching, shown = watcher(tmp_path)
    caplog.set_level("INFO", "serve.events")
    feed(watching, shown, answers())
    assert shown.decisions == [("2", "promoted")]
    assert (get_alias(NAME, "champion"), get_alias(NAME, "challenger")) == ("2", None)
    last = read_past(NAME).moves[-1]
    assert (last.origin, last.to, last.kind) == ("1", "2", "promoted")
    assert "service, process" in last.who
    assert last.why.startswith("no worse than version 1 (errors 0.00% of ")
    lines = [json.loads(record.message) for record in caplog.records if record.name == "serve.events"]
    assert [line["state"] for line in lines] == ["begun", "promoted"]
    assert json.loads(client.get_model_version(NAME, "2").tags[DECISION_TAG]) == lines[-1]
    assert lines[-1]["figures"]["agreement"]["canary"] == 0.6
    watching.look()
    assert watching.trial is None


@pytest.mark.parametrize(
    ("measure", "broken"),
    [("errors", {"failed": True, "duration": None, "sample": None}), ("duration", {"duration": 3.0})],
)
def test_a_canary_that_fails_or_is_slow_is_withdrawn_and_stays_out(
    client: MlflowClient, tmp_path: Path, measure: str, broken: dict[str, Any]
) -> None:
    watching, shown = watcher(tmp_path)
    feed(watching, shown, answers(**broken))
    assert shown.decisions == [("2", "withdrawn")]
    assert (get_alias(NAME, "champion"), get_alias(NAME, "challenger")) == ("1", None)
    assert read_past(NAME).objection("2") == "version 2 was rolled back"
    last = read_past(NAME, "challenger").moves[-1]
    assert (last.origin, last.to, last.kind) == ("2", None, "withdrawn")
    assert last.why.startswith(f"worse than version 1 in {measure} (")


def test_a_canary_that_ignores_masks_is_withdrawn(client: MlflowClient, tmp_path: Path) -> None:
    """Judged by the real parser: the champion paints the face of the mask, the canary always another one."""
    faces = [draw(seed, 64) for seed in range(2)]
    (mask, right), (_, wrong) = ((np.asarray(one.mask), np.asarray(one.image)) for one in faces)
    judge = Judge("zoo:parser")
    obeys, ignores = (Sample(mask, picture, "crop") for picture in (right, np.roll(wrong, 24, axis=1)))
    assert judge(obeys) > judge(ignores) + 0.2
    watching, shown = watcher(tmp_path, judge, max_agreement_loss=0.05)
    seen = ([replace(good, sample=obeys), replace(bad, sample=ignores)] for good, bad in answers())
    feed(watching, shown, seen)
    assert shown.decisions == [("2", "withdrawn")]
    assert "in agreement (" in read_past(NAME, "challenger").moves[-1].why


def test_an_undecided_canary_is_withdrawn_at_the_maximum(client: MlflowClient, tmp_path: Path) -> None:
    watching, shown = watcher(tmp_path, max_requests=20)
    feed(watching, shown, ([replace(one, duration=None) for one in pair] for pair in answers()))
    assert shown.decisions == [("2", "undecided")]
    assert get_alias(NAME, "challenger") is None
    assert "2" in read_past(NAME).rolled_back
    assert "not decided after 20 requests: duration (" in read_past(NAME, "challenger").moves[-1].why


def test_only_versions_that_passed_the_gate_are_decided_about(client: MlflowClient, tmp_path: Path) -> None:
    client.set_model_version_tag(NAME, "2", VERDICT_TAG, "rejected")
    watching, shown = watcher(tmp_path)
    feed(watching, shown, answers(failed=True))
    assert not shown.decisions
    assert get_alias(NAME, "challenger") == "2"
    any_version, _ = watcher(tmp_path, require_gate=False)
    any_version.look()
    assert any_version.trial is not None
    client.set_model_version_tag(NAME, "2", VERDICT_TAG, PASSED)
    watching.look()
    assert watching.trial is not None


def test_a_release_goes_first_and_the_decision_follows(client: MlflowClient, tmp_path: Path) -> None:
    watching, shown = watcher(tmp_path)
    with turn(Store(tmp_path), NAME):
        feed(watching, shown, answers())
        assert not shown.decisions
        assert get_alias(NAME, "champion") == "1"
    watching.step()
    assert shown.decisions == [("2", "promoted")]


def test_a_champion_that_was_moved_in_between_ends_the_trial(client: MlflowClient, tmp_path: Path) -> None:
    watching, shown = watcher(tmp_path, min_requests=40)
    pairs = answers()
    feed(watching, shown, pairs, 39)
    move_alias(NAME, "champion", "3", expected="1", kind="forced", why="by hand")
    watching.observe(next(pairs))
    watching.step()  # it would promote, and has not looked since
    assert not shown.decisions
    assert watching.trial is None
    assert (get_alias(NAME, "champion"), get_alias(NAME, "challenger")) == ("3", "2")
    watching.look()
    assert watching.trial is not None
    assert (watching.trial.champion, watching.trial.requests) == ("3", 0)


def test_a_seed_counts_once_and_other_pairs_not_at_all(client: MlflowClient, tmp_path: Path) -> None:
    watching, shown = watcher(tmp_path)
    first = next(answers())
    watching.observe([*first, *first, replace(first[1], champion="9", seed=77)])
    watching.step()
    assert watching.trial is not None
    assert watching.trial.requests == 1
    assert shown.skips == [("1", "repeated"), ("2", "repeated")]


def test_a_version_that_was_rolled_back_does_not_stay_canary(client: MlflowClient, tmp_path: Path) -> None:
    mark_rolled_back(NAME, "2")
    watching, shown = watcher(tmp_path)
    watching.step()
    assert shown.decisions == [("2", "withdrawn")]
    assert (get_alias(NAME, "champion"), get_alias(NAME, "challenger")) == ("1", None)


def test_when_champion_and_canary_are_one_version_there_is_no_trial(client: MlflowClient, tmp_path: Path) -> None:
    move_alias(NAME, "champion", "2", expected="1", kind="promoted", why="by a release")
    watching, _ = watcher(tmp_path)
    watching.look()
    assert watching.trial is None
    assert get_alias(NAME, "challenger") == "2"
