"""Parts of a stage without Ray: each is made once, and known rows are copied."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from mmface.datasets.dataset import Dataset, Publisher, open_dataset
from mmface.datasets.manifest import Identity
from mmface.datasets.part_worker import PartWorker, Runner
from mmface.datasets.parts import commit, discard, part_names, receipt_of
from mmface.datasets.records import ORIGIN
from mmface.datasets.reuse import gather
from mmface.datasets.stage import Result, Row, map_rows
from mmface.datasets.tally import reconcile
from mmface.errors import InputError
from mmface.store import Store
from mmface.store.tables import to_parquet

SOURCE = pa.schema([("id", pa.string()), ("text", pa.string()), ("unread", pa.string()), ("image", pa.binary())])
TARGET = pa.schema([("id", pa.string()), ("length", pa.int64()), ORIGIN])


class Lengths:
    """Length of each text; an empty text is quarantined, ``kill`` kills the process, ``odd`` raises a KeyError."""

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


def test_output_and_quarantined_rows_are_separated_and_counted(home: Store):
    dataset, _ = run(home, publish_source(home, [*texts("a", "bb", "ccc", "dddd"), {"id": "id-none", "text": ""}]))
    assert dataset.table(["length"])["length"].to_pylist() == [1, 2, 3, 4]
    assert dataset.quarantine()["id"].to_pylist() == ["id-none"]
    assert dataset.manifest.counts == {"in": 5, "out": 4, "quarantined": 1, "duplicates": 0, "filtered": 0}
    assert dataset.manifest.extra == {"reused": 0, "computed": 5}


def test_a_grown_collection_computes_only_new_rows_and_equals_a_fresh_run(home: Store, tmp_path: Path):
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
    """The stage of a later release, whose rows have one more column."""

    schema = pa.schema([*list(TARGET)[:-1], ("note", pa.string()), ORIGIN])


def test_rows_of_a_release_without_the_note_column_are_reused(home: Store):
    run(home, publish_source(home, texts("a", "b", "c", "d")))
    dataset, stage = run(home, publish_source(home, texts("a", "b", "c", "d", "e")), Noted())
    assert stage.mapped == ["id-e"]
    assert dataset.table(["id", "note"]).to_pylist()[3:] == [{"id": f"id-{one}", "note": None} for one in "de"]


def test_a_row_whose_input_changed_is_computed_again(home: Store):
    run(home, publish_source(home, texts("a", "b", "c", "d")))
    changed = [*texts("a", "b", "c"), {"id": "id-d", "text": "changed"}]
    dataset, stage = run(home, publish_source(home, changed))
    assert stage.mapped == ["id-d"]
    assert dataset.table(["length"])["length"].to_pylist() == [1, 1, 1, 7]


def test_rows_made_with_other_weights_are_not_reused(home: Store):
    source = publish_source(home, texts("a", "b"))
    run(home, source)
    other = identity(source).model_copy(update={"weights": {"net": "v2"}})
    gather(home, other)
    assert not home.list(f"{other.key}/work")


def test_rows_of_a_damaged_or_missing_file_are_computed_again(home: Store):
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


def test_an_unreadable_earlier_dataset_does_not_stop_the_next(home: Store):
    old, _ = run(home, publish_source(home, texts("a", "b", "c", "d")))
    store = Store(old.uri)
    store.write("data/part-00000.parquet", b"not parquet at all")
    dataset, stage = run(home, publish_source(home, texts("a", "b", "c", "d", "e")))
    assert stage.mapped == ["id-a", "id-b", "id-c", "id-e"]
    assert dataset.manifest.extra == {"reused": 1, "computed": 4}


def test_an_existing_part_is_neither_computed_again_nor_replaced(home: Store):
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


def test_a_lost_receipt_is_rebuilt_from_the_part(home: Store):
    store = home.child("part")
    refused = [{"id": "x", "uri": "", "stage": "lengths", "error": "e", "message": "m"}]
    commit(store, "data/p.parquet", [{"id": "a", "length": 1, "origin": b"0" * 32}], TARGET, refused)
    first = receipt_of(store, "data/p.parquet")
    store.delete("work/receipts/data/p.parquet.json")
    assert receipt_of(store, "data/p.parquet") == first


def test_the_second_writer_of_a_part_keeps_the_receipt_of_the_first(home: Store):
    store, path = home.child("part"), "data/p.parquet"
    rows = [{"id": "a", "length": 1, "origin": b"0" * 32}]
    commit(store, path, rows, TARGET, reused=1)
    first = receipt_of(store, path)
    commit(store, path, rows, TARGET)
    assert receipt_of(store, path) == first
    assert first.reused == 1


def test_discarding_a_part_deletes_its_receipt(home: Store):
    store, path = home.child("part"), "data/p.parquet"
    commit(store, path, [{"id": "a", "length": 1, "origin": b"0" * 32}], TARGET)
    discard(store, path)
    assert store.list() == []
    store.write(path, to_parquet([], TARGET))  # by a process that dies before it writes the receipt
    assert receipt_of(store, path).file.rows == 0
