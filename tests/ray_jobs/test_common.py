"""A stage on a real Ray: rows that kill or fail their worker, and errors that reach the driver unchanged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from mmface.config import Recipe
from mmface.datasets.dataset import Publisher, open_dataset
from mmface.datasets.manifest import Identity
from mmface.datasets.part_worker import PartWorker
from mmface.datasets.parts import commit
from mmface.datasets.records import ORIGIN
from mmface.datasets.stage import Result, Row, map_rows
from mmface.errors import InputError, StageError
from mmface.store import Store
from ray_jobs.shared.job import cause_of, run_stage

pytestmark = pytest.mark.usefixtures("ray_session")

SCHEMA = pa.schema([("id", pa.string()), ORIGIN])


class Fragile:
    """Returns rows unchanged, but ``poison`` kills the process, ``bad`` is refused, ``odd`` raises a KeyError."""

    name = "fragile"
    schema = SCHEMA
    reads: tuple[str, ...] = ("id",)

    def __call__(self, rows: Sequence[Row]) -> Result:
        return map_rows(self.name, rows, self._pass)

    def _pass(self, row: Row) -> Row:
        if row["id"] == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        if row["id"] == "bad":
            raise InputError("it is bad", field="id")
        if row["id"].startswith("odd"):
            raise KeyError("no such tag")
        return {"id": row["id"]}


@pytest.fixture(autouse=True)
def workers_know_this_module():
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def home(tmp_path: Path) -> Store:
    return Store(tmp_path)


def source(home: Store, *ids: str) -> str:
    publisher = Publisher(home, Identity(stage="source", version=1, config={"ids": ids}))
    for number, name in enumerate(range(0, len(ids), 4)):
        rows = [{"id": one, "origin": b"0" * 32} for one in ids[name : name + 4]]
        commit(publisher.store, f"data/part-{number:05d}.parquet", rows, SCHEMA)
    return publisher.publish({})


def recipe(max_quarantined: float) -> Recipe:
    return Recipe.model_validate({"data": {"max_quarantined": max_quarantined}})


def test_poison_is_quarantined_and_an_exceeded_budget_keeps_the_quarantine(home: Store):
    ids = [f"row{i}" for i in range(6)]
    rows = [*ids[:2], "poison", *ids[2:], "bad", "odd"]
    made = Identity(stage="fragile", version=1, config={}, inputs={"source": source(home, *rows)})

    def make() -> PartWorker:
        return PartWorker(made, home, Fragile())

    with pytest.raises(StageError, match=r"3 of 9 rows .*1x 2 processes died while fragile mapped this row alone"):
        run_stage(made, home, make, recipe(0.1))
    kept = [entry.key for entry in home.child(made.key).list("quarantine")]
    assert kept == [f"quarantine/part-0000{number}.parquet" for number in range(3)]

    dataset = open_dataset(run_stage(made, home, make, recipe(0.5)))
    assert dataset.table(["id"])["id"].to_pylist() == ids
    found = {row["id"]: (row["error"], row["message"]) for row in dataset.quarantine().to_pylist()}
    assert {name: error for name, (error, _) in found.items()} == {
        "poison": "poison",
        "bad": "invalid_input:id",
        "odd": "poison",
    }
    assert found["odd"][1].startswith("failed 2 times: KeyError: 'no such tag' (test_common.py:")
    assert dataset.manifest.counts["in"] == 9


def test_an_mmface_error_of_a_worker_reaches_the_driver_unchanged(home: Store):
    made = Identity(stage="fragile", version=2, config={}, inputs={"source": source(home, "a", "b")})

    def make() -> PartWorker:
        raise InputError("no such component", field="components.vae")

    with pytest.raises(InputError, match=r"components.vae: no such component"):
        run_stage(made, home, make, recipe(0.1))


def test_any_other_exception_of_a_worker_becomes_one_line_with_part_and_cause(home: Store):
    made = Identity(stage="fragile", version=3, config={}, inputs={"source": source(home, "a", "b")})

    def make() -> PartWorker:
        raise OSError("no file weights.safetensors\nin the cache")

    cause = r"OSError: no file weights.safetensors in the cache \(test_common.py:\d+\)"
    with pytest.raises(StageError, match=rf"^fragile: part-00000.parquet: {cause}; the traceback is in Ray's log"):
        run_stage(made, home, make, recipe(0.1))


def test_the_cause_of_a_failed_ray_task_is_the_exception_that_it_raised():
    import ray
    from ray.exceptions import RayTaskError

    def fail(row: Row) -> Row:
        raise KeyError("no such tag")

    with pytest.raises(RayTaskError) as caught:
        ray.data.range(1).map(fail).materialize()
    assert cause_of(caught.value) == "KeyError: 'no such tag'"


def test_as_a_program_a_user_error_prints_one_line_and_exits_with_code_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ray_jobs.images", "--recipe", "demo", "--home", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr == "error: sources: no collections; name at least one collection of photographs here\n"
