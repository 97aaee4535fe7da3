"""Parts of a stage without Ray: each made once whatever kills the process, known rows copied, poison set aside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from mmface.datasets.dataset import Dataset, Publisher, open_dataset
from mmface.datasets.journal import OTHER_TRIES, Journal
from mmface.datasets.manifest import Identity
from mmface.datasets.parts import PartWorker, Runner, commit, discard, part_names, receipt_of, reconcile
from mmface.datasets.records import ORIGIN
from mmface.datasets.reuse import gather
from mmface.datasets.stage import Result, Row, map_rows
from mmface.errors import InputError, StageError
from mmface.store import Store
from mmface.store.tables import to_parquet

SOURCE = pa.schema([("id", pa.string()), ("text", pa.string()), ("unread", pa.string()), ("image", pa.binary())])
TARGET = pa.schema([("id", pa.string()), ("length", pa.int64()), ORIGIN])


class Lengths:
    """Length of each text; an empty one is refused, ``kill`` kills the process, ``odd`` raises a KeyError."""

    name = "lengths"
    schema = TARGET
    reads: tuple[str, ...] = ("id", "text", "image")

    def __init__(self) -> None:
        self.mapped: list[str] = []

    def __call__(self, rows: Sequence[Row]) -> Result:
        return map_rows(self.name, rows, self._measure)

    def _measure(self, row: Row) -> Row:
        if row["text"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if row["text"].startswith("odd"):
            raise KeyError(row["text"])
        if not row["text"]:
            raise InputError("no text", field="text")
        self.mapped.append(row["id"])
        return {"id": row["id"], "length": len(row["text"])}


def publish_source(home: Store, rows: Sequence[Row], size: int = 3, note: str = "") -> str:
    publisher = Publisher(home, Identity(stage="source", version=1, config={"rows": repr(rows), "note": note}))
    for start in range(0, len(rows), size):
        path = f"data/part-{start // size:05d}.parquet"
        commit(
            publisher.store, path, [{"unread": note, "image": b"", **row} for row in rows[start : start + size]], SOURCE
        )
    return publisher.publish({})


def texts(*words: str) -> list[Row]:
    return [{"id": f"id-{word}", "text": word} for word in words]


def identity(source: str) -> Identity:
    return Identity(stage="lengths", version=1, config={}, inputs={"source": source})


def run(home: Store, source: str, stage: Lengths | None = None) -> tuple[Dataset, Lengths]:
    stage = stage or Lengths()
    made = identity(source)
    gather(home, made)
    publisher = Publisher(home, made)
    runner = Runner(publisher.store, "data", lambda: PartWorker(made, home, stage))
    parts = part_names(open_dataset(source))
    for part in parts:
        runner.run(part)
    tally = reconcile(publisher, parts)
    return open_dataset(publisher.publish(tally.counts, extra=tally.extra, files=tally.files)), stage


def content(dataset: Dataset) -> dict[str, str]:
    return {file.path: file.sha256 for file in dataset.manifest.files}


@pytest.fixture
def home(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def test_rows_and_refused_rows_are_kept_apart_and_counted(home: Store):
    dataset, _ = run(home, publish_source(home, [*texts("a", "bb", "ccc", "dddd"), {"id": "id-none", "text": ""}]))
    assert dataset.table(["length"])["length"].to_pylist() == [1, 2, 3, 4]
    assert dataset.quarantine()["id"].to_pylist() == ["id-none"]
    assert dataset.manifest.counts == {"in": 5, "out": 4, "quarantined": 1, "duplicates": 0, "filtered": 0}
    assert dataset.manifest.extra == {"reused": 0, "computed": 5}


def test_a_grown_collection_computes_what_is_new_and_equals_one_made_from_nothing(home: Store, tmp_path: Path):
    words = [f"word{i:03d}" for i in range(40)]
    run(home, publish_source(home, texts(*words)))
    grown = texts("a-new-first-word", *words)  # every part is shifted by one row
    source = publish_source(home, grown, note="another unread column")
    dataset, stage = run(home, source)
    assert stage.mapped == ["id-a-new-first-word"]
    assert dataset.manifest.extra == {"reused": 40, "computed": 1}
    fresh, _ = run(Store(tmp_path / "elsewhere"), source)
    assert content(fresh) == content(dataset)


class Noted(Lengths):
    """As a later release makes the rows, with a column more."""

    schema = pa.schema([*list(TARGET)[:-1], ("note", pa.string()), ORIGIN])


def test_rows_of_a_release_without_notes_are_copied(home: Store):
    run(home, publish_source(home, texts("a", "b", "c", "d")))
    dataset, stage = run(home, publish_source(home, texts("a", "b", "c", "d", "e")), Noted())
    assert stage.mapped == ["id-e"]
    assert dataset.table(["id", "note"]).to_pylist()[3:] == [{"id": f"id-{one}", "note": None} for one in "de"]


def test_a_row_whose_input_changed_is_made_again(home: Store):
    run(home, publish_source(home, texts("a", "b", "c", "d")))
    changed = [*texts("a", "b", "c"), {"id": "id-d", "text": "changed"}]
    dataset, stage = run(home, publish_source(home, changed))
    assert stage.mapped == ["id-d"]
    assert dataset.table(["length"])["length"].to_pylist() == [1, 1, 1, 7]


def test_another_recipe_knows_nothing_of_these_rows(home: Store):
    source = publish_source(home, texts("a", "b"))
    run(home, source)
    other = identity(source).model_copy(update={"weights": {"net": "v2"}})
    gather(home, other)
    assert not home.list(f"{other.key}/work")


def test_rows_of_a_damaged_or_lost_file_are_made_again(home: Store):
    words = [f"word{i}" for i in range(9)]
    old, _ = run(home, publish_source(home, texts(*words)))
    grown = publish_source(home, texts(*words, "new"))
    gather(home, identity(grown))
    store = Store(old.uri)
    store.write("data/part-00000.parquet", store.read("data/part-00000.parquet")[:-1] + b"?")
    store.delete("data/part-00001.parquet")
    dataset, stage = run(home, grown)
    assert stage.mapped == [*(f"id-word{i}" for i in range(6)), "id-new"]
    assert dataset.manifest.counts["out"] == 10


def test_an_earlier_dataset_in_ruins_does_not_stop_the_next(home: Store):
    old, _ = run(home, publish_source(home, texts("a", "b", "c", "d")))
    store = Store(old.uri)
    store.write("data/part-00000.parquet", b"not parquet at all")
    dataset, stage = run(home, publish_source(home, texts("a", "b", "c", "d", "e")))
    assert stage.mapped == ["id-a", "id-b", "id-c", "id-e"]
    assert dataset.manifest.extra == {"reused": 1, "computed": 4}


def test_a_part_that_is_there_is_neither_made_again_nor_replaced(home: Store):
    source = publish_source(home, texts("a", "b"))
    publisher = Publisher(home, identity(source))
    path = "data/part-00000.parquet"
    winner = [{"id": "id-a", "length": 100, "origin": b"0" * 32}, {"id": "id-b", "length": 100, "origin": b"0" * 32}]
    commit(publisher.store, path, winner, TARGET)
    commit(publisher.store, path, [], TARGET)
    dataset, stage = run(home, source)
    assert not stage.mapped
    assert dataset.table(["length"])["length"].to_pylist() == [100, 100]
    assert content(dataset) == {path: dataset.manifest.files[0].sha256}
    dataset.read(path)


def test_a_lost_receipt_is_made_of_the_part(home: Store):
    store = home.child("part")
    refused = [{"id": "x", "uri": "", "stage": "lengths", "error": "e", "message": "m"}]
    commit(store, "data/p.parquet", [{"id": "a", "length": 1, "origin": b"0" * 32}], TARGET, refused)
    first = receipt_of(store, "data/p.parquet")
    store.delete("work/receipts/data/p.parquet.json")
    assert receipt_of(store, "data/p.parquet") == first


def test_who_comes_second_leaves_the_receipt_of_who_came_first(home: Store):
    store, path = home.child("part"), "data/p.parquet"
    rows = [{"id": "a", "length": 1, "origin": b"0" * 32}]
    commit(store, path, rows, TARGET, reused=1)
    first = receipt_of(store, path)
    commit(store, path, rows, TARGET)
    assert receipt_of(store, path) == first
    assert first.reused == 1


def test_a_part_that_is_to_be_made_again_leaves_no_receipt(home: Store):
    store, path = home.child("part"), "data/p.parquet"
    commit(store, path, [{"id": "a", "length": 1, "origin": b"0" * 32}], TARGET)
    discard(store, path)
    assert store.list() == []
    store.write(path, to_parquet([], TARGET))  # by a process that dies before it writes the receipt
    assert receipt_of(store, path).file.rows == 0


def drive(home: Store, source: str) -> int:
    """One attempt at every part in a process of its own; its exit code."""
    code = f"""
        import sys; sys.path.insert(0, {str(Path(__file__).parents[3])!r})
        from tests.mmface.datasets.test_parts import run
        from mmface.store import Store
        run(Store({home.uri!r}), {source!r})
    """
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False).returncode


def test_a_row_that_kills_its_process_is_set_aside_and_no_other_is_lost(home: Store):
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


def test_a_row_that_fails_again_and_again_is_set_aside_and_no_other_is_lost(home: Store):
    words = ["odd", "a", "odd one", "bb", "", "ccc"]
    dataset, _ = run(home, publish_source(home, texts(*words), size=6))
    assert dataset.table(["length"])["length"].to_pylist() == [1, 2, 3]
    found = [(row["id"], row["error"], row["message"].partition(" (")[0]) for row in dataset.quarantine().to_pylist()]
    assert found == [
        ("id-odd", "poison", "2 times KeyError: 'odd'"),
        ("id-odd one", "poison", "2 times KeyError: 'odd one'"),
        ("id-", "invalid_input:text", "no text"),
    ]
    assert dataset.manifest.counts == {"in": 6, "out": 3, "quarantined": 3, "duplicates": 0, "filtered": 0}


def test_a_failure_of_every_row_ends_the_stage_and_sets_nothing_aside(home: Store):
    source = publish_source(home, texts(*(f"odd{number}" for number in range(9)), "a"), size=10)
    with pytest.raises(
        StageError,
        match=r"lengths: the first 8 rows of part-00000.parquet all fail, the last is id-odd7: KeyError: 'odd7'",
    ):
        run(home, source)
    assert not Publisher(home, identity(source)).finished("data")
    with Journal(home, "part-00000.parquet") as journal:
        assert not journal.record.deaths


def fail(home: Store) -> None:
    with Journal(home, "part") as journal:
        journal.map(Lengths(), texts("a"), "id")
        raise InputError("the disk was full")


def test_an_error_is_no_death(home: Store):
    for _ in range(5):
        with pytest.raises(InputError):
            fail(home)
    with Journal(home, "part") as journal:
        assert not journal.record.deaths


def test_loading_that_kills_ends_in_a_clear_error_and_may_be_tried_again(home: Store):
    for _ in range(OTHER_TRIES):
        Journal(home, "part").__enter__().enter("loading")  # and the process is gone
    with pytest.raises(StageError, match=f"{OTHER_TRIES} processes died"), Journal(home, "part") as journal:
        journal.enter("loading")
    with Journal(home, "part") as journal:
        journal.enter("loading")
