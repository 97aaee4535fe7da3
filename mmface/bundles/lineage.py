"""Reads the lineage of every registered bundle (§8)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mmface.bundles.registry import FINGERPRINT_TAG, read_file
from mmface.bundles.tracking import mlflow_errors, open_tracking, tracking_exists

LINEAGE = "lineage.json"

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel


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
