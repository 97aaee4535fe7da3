"""The journal: rows that kill their process or fail are quarantined, and no other row is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mmface.datasets.dataset import Publisher, open_dataset
from mmface.datasets.journal import OTHER_TRIES, Journal
from mmface.errors import InputError, StageError
from mmface.store import Store
from tests.mmface.datasets.test_parts import Lengths, identity, publish_source, run, texts


@pytest.fixture
def home(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def drive(home: Store, source: str) -> int:
    """Runs the stage in a separate process; returns the exit code."""
    code = f"""
        import sys; sys.path.insert(0, {str(Path(__file__).parents[3])!r})
        from tests.mmface.datasets.test_parts import run
        from mmface.store import Store
        run(Store({home.uri!r}), {source!r})
    """
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False).returncode


def test_a_row_that_kills_its_process_is_quarantined_and_no_other_is_lost(home: Store):
    words = ["a", "kill", "bb", "ccc", "dddd"]
    source = publish_source(home, texts(*words), size=5)
    codes = []
    while not codes or codes[-1]:
        codes.append(drive(home, source))
        assert len(codes) < 8
    assert codes == [-signal.SIGKILL] * 4 + [0]
    dataset = open_dataset(Publisher(home, identity(source)).store.uri)
    assert dataset.table(["length"])["length"].to_pylist() == [1, 2, 3, 4]
    assert [(row["id"], row["error"]) for row in dataset.quarantine().to_pylist()] == [("id-kill", "poison")]
    assert dataset.manifest.counts["in"] == 5


def test_a_row_that_fails_repeatedly_is_quarantined_and_no_other_is_lost(home: Store):
    words = ["odd", "a", "odd one", "bb", "", "ccc"]
    dataset, _ = run(home, publish_source(home, texts(*words), size=6))
    assert dataset.table(["length"])["length"].to_pylist() == [1, 2, 3]
    found = [(row["id"], row["error"], row["message"].partition(" (")[0]) for row in dataset.quarantine().to_pylist()]
    assert found == [
        ("id-odd", "poison", "failed 2 times: KeyError: 'odd'"),
        ("id-odd one", "poison", "failed 2 times: KeyError: 'odd one'"),
        ("id-", "invalid_input:text", "no text"),
    ]
    assert dataset.manifest.counts == {"in": 6, "out": 3, "quarantined": 3, "duplicates": 0, "filtered": 0}


def test_if_all_rows_fail_alike_the_stage_fails_and_quarantines_nothing(home: Store):
    source = publish_source(home, texts(*(f"odd{number}" for number in range(9)), "a"), size=10)
    with pytest.raises(
        StageError,
        match=r"lengths: the first 8 rows of part-00000.parquet all fail; the last is id-odd7: KeyError: 'odd7'",
    ):
        run(home, source)
    assert not Publisher(home, identity(source)).finished("data")
    with Journal(home, "part-00000.parquet") as journal:
        assert not journal.record.deaths


def fail(home: Store) -> None:
    with Journal(home, "part") as journal:
        journal.map(Lengths(), texts("a"), "id")
        raise InputError("the disk was full")


def test_an_exception_does_not_count_as_a_death(home: Store):
    for _ in range(5):
        with pytest.raises(InputError):
            fail(home)
    with Journal(home, "part") as journal:
        assert not journal.record.deaths


def test_repeated_deaths_while_loading_raise_an_error_and_loading_can_be_tried_again(home: Store):
    for _ in range(OTHER_TRIES):
        Journal(home, "part").__enter__().enter("loading")  # never left: as if the process was killed
    with pytest.raises(StageError, match=f"{OTHER_TRIES} processes died"), Journal(home, "part") as journal:
        journal.enter("loading")
    with Journal(home, "part") as journal:
        journal.enter("loading")
