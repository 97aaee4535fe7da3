"""Lineage in MLflow: of registered bundles, and of runs as dataset inputs (§8)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mmface.bundles.registry import FINGERPRINT_TAG, read_file
from mmface.bundles.tracking import mlflow_errors, open_tracking, tracking_exists
from mmface.datasets.dataset import Dataset, upstream
from mmface.errors import RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput
    from mlflow.entities.model_registry import RegisteredModel
    from mlflow.types.schema import Array, DataType, Map

LINEAGE = "lineage.json"
# What a run reads datasets for, by the first word of their stage; datasets of other stages are no inputs.
CONTEXTS = {
    "images": "train",
    "conditions": "train",
    "captions": "train",
    "text": "train",
    "latents": "train",
    "evalset": "eval",
}
CONTEXT_TAG = "mlflow.data.context"


def log_datasets(run_id: str, uris: Iterable[str]) -> None:
    """Records published datasets and everything they were made from as dataset inputs of an MLflow run.

    An input has the stage as its name, the fingerprint as its digest, the URI as its source, and the counts of the
    manifest as its profile. MLflow keeps each input of a run once, however often it is recorded.

    Raises:
        DatasetError: a dataset is not published.
        RegistryError, ServiceError: MLflow has no such run, or cannot be reached.
    """
    found: dict[str, Dataset] = {}
    for uri in uris:
        found |= upstream(uri)
    inputs = [
        _input(dataset, CONTEXTS[stage.partition("-")[0]])
        for stage, dataset in found.items()
        if stage.partition("-")[0] in CONTEXTS
    ]
    client = open_tracking()
    with mlflow_errors():
        client.log_inputs(run_id, datasets=inputs)


def run_summary(run_id: str) -> dict[str, str]:
    """Id, name and status of an MLflow run; the status of a run that MLflow no longer has is ``deleted``."""
    client = open_tracking()
    try:
        with mlflow_errors():
            info = client.get_run(run_id).info
    except RegistryError:
        return {"id": run_id, "name": "", "status": "deleted"}
    return {"id": run_id, "name": str(info.run_name), "status": str(info.status)}


def registered_lineages() -> dict[str, dict[str, Any]]:
    """``lineage.json`` of every registered bundle, by ``name version``.

    Creates no MLflow database if there is none.

    Raises:
        RegistryError: the lineage file of a version is missing.
        ServiceError: MLflow cannot be reached, or its address is not set.
    """
    if not tracking_exists():
        return {}
    client = open_tracking()
    with mlflow_errors():
        versions = [
            one
            for model in _all_models(client)
            for one in client.search_model_versions(f"name = '{model.name}'")
            if FINGERPRINT_TAG in one.tags
        ]
    return {f"{one.name} {one.version}": _lineage(one.name, str(one.version)) for one in versions}


def model_names() -> list[str]:
    """The names of all registered models; empty if nothing was ever registered."""
    if not tracking_exists():
        return []
    client = open_tracking()
    with mlflow_errors():
        return [str(model.name) for model in _all_models(client)]


def _all_models(client: MlflowClient) -> Iterator[RegisteredModel]:
    token = None
    while True:
        page = client.search_registered_models(page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _lineage(name: str, version: str) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(read_file(name, version, LINEAGE))
    return tree


def _input(dataset: Dataset, context: str) -> DatasetInput:
    from mlflow.data.dataset_source_registry import get_dataset_source_from_json
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import Dataset as DatasetEntity
    from mlflow.entities import DatasetInput, InputTag
    from mlflow.types import ColSpec, Schema

    manifest, place = dataset.manifest, json.dumps({"uri": dataset.uri})
    described = MetaDataset(  # type: ignore[abstract]  # its ``profile`` is None at run time
        source=get_dataset_source_from_json(place, "s3" if dataset.uri.startswith("s3://") else "local"),
        name=manifest.stage,
        digest=manifest.fingerprint,
        schema=Schema([ColSpec(_column_type(column.type), column.name) for column in dataset.schema]),
    )
    entity = DatasetEntity(**described.to_dict(), profile=json.dumps(manifest.counts))
    return DatasetInput(entity, [InputTag(CONTEXT_TAG, context)])


def _column_type(kind: pa.DataType) -> DataType | Array | Map:
    """MLflow's name for the type of a column."""
    from mlflow.types.schema import Array, DataType, Map

    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return Array(_column_type(kind.value_type))
    if pa.types.is_map(kind):
        return Map(_column_type(kind.item_type))
    names = {pa.string(): "string", pa.int32(): "integer", pa.int64(): "long", pa.bool_(): "boolean"}
    names |= {pa.float32(): "float", pa.float64(): "double"}
    return DataType[names.get(kind, "binary")]  # the other columns are bytes
