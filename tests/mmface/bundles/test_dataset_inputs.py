"""Published datasets as dataset inputs of MLflow runs, with a real MLflow on SQLite."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlflow
import pytest

from mmface.bundles.lineage import log_datasets, run_summary
from mmface.bundles.tracking import open_tracking, start_run
from mmface.errors import DatasetError, RegistryError
from mmface.store import Store
from tests.lineages import publish_chain


@pytest.fixture(autouse=True)
def home(migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MMFACE_HOME", str(tmp_path))
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return Store(str(tmp_path))


def test_a_run_has_every_dataset_once_also_after_a_resume(home: Store) -> None:
    made = publish_chain(home)
    run = start_run("retrain", key="k")
    for _ in range(2):
        log_datasets(start_run("retrain", key="k"), [made["conditions"], made["evalset"]])
    inputs = open_tracking().get_run(run).inputs.dataset_inputs
    assert {one.dataset.name: one.tags[0].value for one in inputs} == {
        "images": "train",
        "conditions": "train",
        "evalset": "eval",
    }
    assert len(inputs) == 3
    assert {one.tags[0].key for one in inputs} == {"mlflow.data.context"}


def test_an_input_leads_back_to_its_dataset(home: Store) -> None:
    made = publish_chain(home)
    run = start_run("retrain")
    log_datasets(run, [made["train-0-32"]])
    inputs = open_tracking().get_run(run).inputs.dataset_inputs
    assert sorted(one.dataset.name for one in inputs) == ["conditions", "images"]  # a trained phase is no input
    images = next(one.dataset for one in inputs if one.dataset.name == "images")
    assert made["images"].endswith(images.digest)
    assert mlflow.data.get_source(next(one for one in inputs if one.dataset is images)).uri == made["images"]
    assert json.loads(images.profile) == {"in": 5, "out": 3, "quarantined": 1, "duplicates": 1, "filtered": 0}
    columns = {one["name"]: one["type"] for one in json.loads(images.schema)["mlflow_colspec"]}
    assert columns["id"] == "string"
    assert columns["image"] == "binary"
    assert columns["width"] == "integer"
    assert columns["captions"] == "array"


def test_a_dataset_or_a_run_that_does_not_exist_is_named(home: Store) -> None:
    made = publish_chain(home)
    with pytest.raises(DatasetError, match="never published"):
        log_datasets(start_run("retrain"), [f"{home.uri}/datasets/text/0123456789abcdef"])
    with pytest.raises(RegistryError, match="not found"):
        log_datasets("0" * 32, [made["images"]])
    assert run_summary("0" * 32)["status"] == "deleted"
