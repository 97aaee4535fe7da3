"""Records of moves: kills at every write, moves outside mmface, and what the gate decided; a real MLflow on SQLite."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mmface.bundles import aliases, registry
from mmface.bundles.aliases import move_alias, rollback
from mmface.bundles.moves import CHAMPION, MOVING_TAG, OUTSIDE, PREVIOUS, Past, read_past
from mmface.bundles.verdicts import DECISION_TAG, MAX_TAG, VERDICT_TAG, read_decision, record_decision
from mmface.errors import RegistryError

MODEL = "mmface-dit"
WRITES = (
    "set_registered_model_tag",
    "delete_registered_model_tag",
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "set_model_version_tag",
    "delete_model_version_tag",
)


class Killed(BaseException):
    """Stands for SIGKILL: no further write reaches the registry."""


@pytest.fixture
def client(migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A registry with the versions 1 to 4, of which the gate passed 1 to 3; champion is 1."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MMFACE_HOME", str(tmp_path))
    shutil.copy(migrated, tmp_path / "mlflow.db")
    client = registry.open_tracking()
    client.create_registered_model(MODEL)
    for _ in range(4):
        client.create_model_version(MODEL, "file:///bundle")
    for version in "123":
        record_decision(MODEL, version, "passed", "passed 2 checks", "{}")
    promote("1", None)
    return client


def promote(to: str, expected: str | None) -> None:
    move_alias(MODEL, CHAMPION, to, expected=expected, kind="promoted", why="better")


def die_before(write: int, patch: pytest.MonkeyPatch) -> None:
    """Raises :class:`Killed` instead of the write of that number and of every later one."""
    made = 0

    def counted(real: Callable[..., None], *given: object, **named: object) -> None:
        nonlocal made
        made += 1
        if made >= write:
            raise Killed
        real(*given, **named)

    for name in WRITES:
        real = getattr(MlflowClient, name)
        patch.setattr(MlflowClient, name, lambda *given, real=real, **named: counted(real, *given, **named))


def check_records(past: Past) -> None:
    """The numbers count up, each move starts where the last one ended, and the last one ends where the alias is."""
    assert [one.number for one in past.moves] == list(range(1, len(past.moves) + 1))
    assert past.moves[0].origin is None
    for before, after in zip(past.moves, past.moves[1:], strict=False):
        assert after.origin == before.to
    assert past.moves[-1].to == past.current
    assert all(one.who and one.why for one in past.moves if one.kind != OUTSIDE)


def test_a_rollback_that_is_killed_at_any_write_is_recorded_by_the_next_move(client: MlflowClient) -> None:
    """Afterwards the record is what it is without the kill, or the move was not made and nothing says that it was."""
    promote("2", "1")
    database = Path(str(client.tracking_uri).removeprefix("sqlite:///"))
    saved = database.read_bytes()
    rollback(MODEL, why="blurred hair")
    whole = _plain(CHAMPION)
    write, outcomes = 0, []
    while True:
        write += 1
        database.write_bytes(saved)
        with pytest.MonkeyPatch.context() as patch:
            die_before(write, patch)
            try:
                rollback(MODEL, why="blurred hair")
            except Killed:
                pass
            else:
                break  # it made fewer writes
        seen = read_past(MODEL)
        outcomes.append(seen.current == "1")
        check_records(seen)  # at once, before anything completes it
        assert seen.rolled_back == (frozenset("2") if seen.current == "1" else frozenset())
        promote("3", seen.current)
        assert _plain(CHAMPION)[:-1] == (whole if seen.current == "1" else whole[:-1])
        check_records(read_past(MODEL, PREVIOUS))
        assert registry.get_alias(MODEL, PREVIOUS) == read_past(MODEL).previous == seen.current
        assert MOVING_TAG.format(alias=CHAMPION) not in client.get_registered_model(MODEL).tags
    assert outcomes == sorted(outcomes), "made after some write, and from then on"
    assert {True, False} == set(outcomes)


def _plain(alias: str) -> list[tuple[str | None, ...]]:
    return [(one.origin, one.to, one.kind, one.why) for one in read_past(MODEL, alias).moves]


def test_previous_is_the_version_that_a_rollback_returns_to(client: MlflowClient) -> None:
    seen = [registry.get_alias(MODEL, PREVIOUS)]
    for act in (lambda: promote("2", "1"), lambda: promote("3", "2"), lambda: rollback(MODEL), lambda: rollback(MODEL)):
        act()
        seen.append(registry.get_alias(MODEL, PREVIOUS))
    assert seen == [None, "1", "2", "1", None]
    check_records(read_past(MODEL, PREVIOUS))
    assert {one.kind for one in read_past(MODEL, PREVIOUS).moves} == {"follows champion"}


def test_a_move_outside_mmface_is_noticed_recorded_and_never_returned_to(client: MlflowClient) -> None:
    client.set_registered_model_alias(MODEL, CHAMPION, "4")  # in MLflow's page; the gate never saw this version
    assert not read_past(MODEL).recorded
    with pytest.raises(RegistryError, match="version 4 is now champion of mmface-dit, not 1; nothing was moved"):
        promote("2", "1")
    promote("2", "4")
    past = read_past(MODEL)
    check_records(past)
    assert [(one.origin, one.to, one.kind) for one in past.moves] == [
        (None, "1", "promoted"),
        ("1", "4", OUTSIDE),
        ("4", "2", "promoted"),
    ]
    assert past.moves[1].who == ""
    assert (past.previous, registry.get_alias(MODEL, PREVIOUS)) == ("1", "1")
    assert rollback(MODEL) == "1"


def test_a_rollback_of_a_version_that_got_the_alias_outside_mmface(client: MlflowClient) -> None:
    client.set_registered_model_alias(MODEL, CHAMPION, "4")
    client.delete_registered_model_alias(MODEL, PREVIOUS)
    assert rollback(MODEL) == "1"
    check_records(read_past(MODEL))
    assert registry.get_alias(MODEL, PREVIOUS) is None


def test_a_champion_whose_version_was_deleted_in_mlflow_can_be_replaced(client: MlflowClient) -> None:
    """The records of its own moves are deleted with it."""
    promote("2", "1")
    client.delete_model_version(MODEL, "2")
    assert registry.get_alias(MODEL, CHAMPION) is None
    promote("3", None)
    past = read_past(MODEL)
    check_records(past)
    assert past.previous == "1"


def test_only_a_version_that_the_gate_passed_becomes_champion(client: MlflowClient) -> None:
    with pytest.raises(RegistryError, match=r"no decision of the gate is recorded for version 4 .*promote 4 --force"):
        promote("4", "1")
    for verdict, said in (("rejected", "rejected"), ("not decided", "did not decide about")):
        record_decision(MODEL, "4", verdict, "mask/miou is 0.1", "{}")  # type: ignore[arg-type]
        with pytest.raises(RegistryError, match=f"the gate {said} version 4 of mmface-dit: mask/miou is 0.1; "):
            promote("4", "1")
    assert registry.get_alias(MODEL, CHAMPION) == "1"
    assert len(read_past(MODEL).moves) == 1
    move_alias(MODEL, CHAMPION, "4", expected="1", kind="forced", why="the judge is broken")
    assert read_past(MODEL).moves[-1].kind == "forced"
    assert read_past(MODEL).previous == "1"


def test_a_long_decision_is_cut_into_tags_and_read_as_one(client: MlflowClient) -> None:
    """Older MLflow servers take 5,000 characters."""
    long, short = "".join(chr(0x4E00 + i % 9000) for i in range(2 * MAX_TAG + 7)), '{"checks": []}'
    for decision in (long, short):
        record_decision(MODEL, "4", "rejected", "r" * 2 * MAX_TAG, decision)
        found, tags = read_decision(MODEL, "4"), client.get_model_version(MODEL, "4").tags
        assert found is not None
        assert found.decision == decision
        assert found.reason.endswith("r …")
        assert max(map(len, tags.values())) <= MAX_TAG
    assert [key for key in tags if key.startswith(DECISION_TAG)] == [DECISION_TAG]


def test_a_decision_whose_recording_was_killed_counts_as_none(client: MlflowClient) -> None:
    with pytest.MonkeyPatch.context() as patch:
        die_before(2, patch)
        with pytest.raises(Killed):
            record_decision(MODEL, "2", "rejected", "worse", "{}")
    assert VERDICT_TAG not in client.get_model_version(MODEL, "2").tags
    with pytest.raises(RegistryError, match="no decision of the gate is recorded for version 2"):
        promote("2", "1")
    record_decision(MODEL, "2", "passed", "better", "{}")
    promote("2", "1")


def test_a_reason_of_any_text_is_recorded_in_one_line(client: MlflowClient) -> None:
    why = "gr\u00fcn\n" + "\U0001f600" * 2000 + "\udcff"
    move_alias(MODEL, CHAMPION, "2", expected="1", kind="promoted", why=why)
    recorded = read_past(MODEL).moves[-1].why
    assert recorded.startswith("gr\u00fcn\\n\U0001f600")
    assert len(recorded) == aliases.MAX_WHY


def test_a_damaged_record_is_named(client: MlflowClient) -> None:
    client.set_model_version_tag(MODEL, "1", "mmface.moves.champion.00001", "{}")
    with pytest.raises(
        RegistryError, match=r"the tag mmface\.moves\.champion\.00001 of version 1 does not hold a move"
    ):
        read_past(MODEL)
