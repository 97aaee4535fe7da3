"""What registered models were made of: the lineage that every bundle carries (§8)."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmface.errors import RegistryError
from mmface.registry import FINGERPRINT_TAG
from mmface.tracking import mlflow_errors, open_tracking, tracking_exists, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient


def registered_lineages() -> dict[str, dict[str, Any]]:
    """``lineage.json`` of every registered bundle, by ``name version``; makes no database where MLflow never was used.

    Raises:
        RegistryError: the lineage of a version was lost.
        ServiceError: MLflow cannot be reached, or nobody has said where it is.
    """
    if not tracking_exists():
        return {}
    client = open_tracking()
    with mlflow_errors():
        versions = [
            one
            for model in client.search_registered_models()
            for one in client.search_model_versions(f"name = '{model.name}'")
            if FINGERPRINT_TAG in one.tags
        ]
    return {f"{one.name} {one.version}": _lineage(client, one.name, str(one.version)) for one in versions}


def _lineage(client: MlflowClient, name: str, version: str) -> dict[str, Any]:
    from mlflow.artifacts import download_artifacts

    with mlflow_errors(), tempfile.TemporaryDirectory() as scratch:
        uri = f"{client.get_model_version_download_uri(name, version)}/lineage.json"
        place = {"dst_path": scratch, "tracking_uri": tracking_uri(), "registry_uri": tracking_uri()}
        try:
            text = Path(download_artifacts(artifact_uri=uri, **place)).read_text(encoding="utf-8")
        except OSError:
            message = (
                f"the lineage of {name} version {version} is lost; register its bundle again or delete the version"
            )
            raise RegistryError(message, field="lineage.json") from None
    tree: dict[str, Any] = json.loads(text)
    return tree
