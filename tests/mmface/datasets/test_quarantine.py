"""Replays: rows quarantined because a resource was missing are computed again once it is back; no Ray needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from mmface.datasets.dataset import Publisher, open_dataset
from mmface.datasets.inventory import find, scan
from mmface.datasets.manifest import Identity
from mmface.datasets.part_worker import PartWorker, Runner
from mmface.datasets.parts import DATA, commit, part_names
from mmface.datasets.quarantine import by_reason, replay, set_aside
from mmface.datasets.records import ORIGIN
from mmface.datasets.reuse import gather
from mmface.datasets.stage import VERSIONS, Result, Row, map_rows
from mmface.datasets.tally import check_budget, reconcile
from mmface.errors import DatasetError, InputError, StageError
from mmface.store import Store

IDS = pa.schema([("id", pa.string())])
SCHEMA = pa.schema([("id", pa.string()), ("note", pa.string()), ORIGIN])


class Notes:
    """Reads a file outside the dataset for every row; a missing file stands for a share that is not mounted."""

    name = "conditions"
    schema = SCHEMA
    reads = ("id",)
    done: list[str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done = []

    def __call__(self, rows: Sequence[Row]) -> Result:
        return map_rows(self.name, rows, self._read)

    def _read(self, row: Row) -> Row:
        self.done.append(row["id"])
        file = self.folder / row["id"]
        if not file.exists():
            raise InputError(f"no note of {len(row['id'])} letters", field="note")
        return {"id": row["id"], "note": file.read_text()}


@pytest.fixture
def home(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    for name in ("a", "b", "d", "e", "f"):
        (tmp_path / "notes" / name).write_text(f"note {name}")
    return tmp_path / "notes"


def images(home: Store) -> str:
    publisher = Publisher(home, Identity(stage="images", version=1, config={}))
    for number, ids in enumerate(("ab", "cd", "ef")):
        commit(publisher.store, f"data/part-{number}.parquet", [{"id": one} for one in ids], IDS)
    return publisher.publish({"in": 6, "out": 6})


def run(home: Store, identity: Identity, stage: Notes, budget: float = 1.0) -> str:
    """Runs a stage in this process, as ``ray_jobs`` does."""
    publisher = Publisher(home, identity)
    parts = part_names(open_dataset(identity.inputs["images"]))
    gather(home, identity)
    runner = Runner(publisher.store, DATA, lambda: PartWorker(identity, home, stage))
    for part in parts:
        runner.run(part)
    tally = reconcile(publisher, parts)
    check_budget(publisher, tally.counts, budget)
    return publisher.publish(tally.counts, extra=tally.extra, files=tally.files)


def identity(home: Store) -> Identity:
    return Identity(stage="conditions", version=VERSIONS["conditions"], config={}, inputs={"images": images(home)})


def test_replaying_an_unfinished_dataset_computes_the_parts_with_quarantined_rows_again(home: Store, notes: Path):
    made, stage = identity(home), Notes(notes)
    with pytest.raises(StageError, match="1 of 6 rows were quarantined"):
        run(home, made, stage, budget=0.0)
    one = find(scan(home), "conditions")
    assert [(part, [row["id"] for row in rows]) for part, rows in set_aside(home, one).items()] == [
        ("part-1.parquet", ["c"])
    ]

    (notes / "c").write_text("note c")
    with pytest.raises(StageError):  # without a replay finished parts are not computed again
        run(home, made, stage, budget=0.0)
    assert stage.done == list("abcdef")

    done = replay(home, one)
    assert (done.key, done.rows, done.number) == (one.key, 1, 0)
    assert not home.exists(f"{made.key}/work/receipts/data/part-1.parquet.json")  # the receipt is deleted too
    uri = run(home, made, stage, budget=0.0)
    assert stage.done == [*"abcdef", *"cd"]
    assert open_dataset(uri).table(["id"])["id"].to_pylist() == list("abcdef")
    assert open_dataset(uri).quarantine().num_rows == 0


def test_a_published_dataset_stays_and_its_successor_computes_only_the_quarantined_rows(home: Store, notes: Path):
    made, stage = identity(home), Notes(notes)
    first = run(home, made, stage)
    before = {entry.key: home.read(entry.key) for entry in home.list(made.key)}
    one = find(scan(home), "conditions")

    (notes / "c").write_text("note c")
    done = replay(home, one)
    successor = made.attempt(done.number)
    assert (done.number, done.key) == (1, successor.key)
    assert done.key != one.key

    second = run(home, successor, stage)
    assert stage.done == [*"abcdef", "c"]
    assert open_dataset(second).manifest.counts["out"] == 6
    assert {entry.key: home.read(entry.key) for entry in home.list(made.key)} == before
    assert open_dataset(first).quarantine()["id"].to_pylist() == ["c"]
    with pytest.raises(DatasetError, match=r"already replayed: set data.replay=\{conditions: 1\}"):
        replay(home, one)
    with pytest.raises(DatasetError, match="nothing to replay"):
        replay(home, find(scan(home), done.key))


def test_replays_are_numbered_and_a_new_stage_version_needs_no_replay(home: Store, notes: Path):
    made, stage = identity(home), Notes(notes)
    run(home, made, stage)
    run(home, made.attempt(1), stage)
    assert stage.done == [*"abcdef", "c"]
    assert replay(home, find(scan(home), made.attempt(1).key)).number == 2
    assert made.attempt(2).attempt(0) == made
    older = made.model_copy(update={"version": 0})
    run(home, older, stage)
    with pytest.raises(DatasetError, match="made by another version of the code"):
        replay(home, find(scan(home), older.key))


def test_filtered_rows_are_not_replayed(home: Store):
    publisher = Publisher(home, identity(home))
    unwanted = {"id": "a", "uri": "", "stage": "conditions", "error": "filtered:face", "message": "small"}
    commit(publisher.store, "data/part-0.parquet", [], SCHEMA, [unwanted])
    tally = reconcile(publisher, ["part-0.parquet"])
    assert (tally.counts["filtered"], tally.counts["quarantined"]) == (1, 0)
    publisher.publish(tally.counts, files=tally.files)
    one = find(scan(home), "conditions")
    assert list(set_aside(home, one)) == ["part-0.parquet"]
    with pytest.raises(DatasetError, match="no unusable row"):
        replay(home, one)


def test_reasons_that_differ_only_in_numbers_are_grouped():
    def row(uri: str, message: str, error: str = "invalid_input:image") -> Row:
        return {"id": "x", "uri": uri, "stage": "images", "error": error, "message": message}

    rows = [row("a", "12x9 is small"), row("b", "broken"), row("c", "8x70 is small"), row("", "broken", "poison")]
    grouped = [(reason.message, reason.uris) for reason in by_reason(rows)]
    assert grouped == [("12x9 is small", ("a", "c")), ("broken", ("b",)), ("broken", ("x",))]
