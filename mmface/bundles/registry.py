"""Registers bundles as versions in MLflow's registry, and loads them (§8).

:mod:`mmface.bundles.aliases` says which version serves. A version is the registry's number as text. Registering a
bundle with the same fingerprint again returns the existing version.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mmface.bundles.aliases import MODEL, get_alias, known_versions, require_version, rollback, set_alias
from mmface.bundles.moves import CHAMPION, alias_holders
from mmface.bundles.tracking import (
    finish_run,
    log_artifact,
    log_metrics,
    mlflow_errors,
    open_tracking,
    start_run,
    tracking_uri,
)
from mmface.errors import RegistryError
from mmface.store.scratch import scratch_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from mmface.bundles.bundle import Bundle

FINGERPRINT_TAG = "mmface.bundle"
ARTIFACTS = "bundles"


@dataclass(frozen=True)
class Version:
    """One registered bundle."""

    name: str
    version: str
    aliases: tuple[str, ...]
    run_id: str
    fingerprint: str
    created: float  # seconds since the epoch


def register_bundle(folder: Path, run_id: str, model_name: str = MODEL) -> str:
    """Stores the bundle with its MLflow run and registers it, unless it already is; returns its version."""
    from mmface.bundles.bundle import bundle_fingerprint
    from mmface.bundles.mlmodel import write_model_files

    client = open_tracking()
    fingerprint = bundle_fingerprint(folder)
    with mlflow_errors():
        _ensure_model(client, model_name)
        for version in client.search_model_versions(f"name = '{model_name}'"):
            if version.tags.get(FINGERPRINT_TAG) == fingerprint:
                return str(version.version)
        place = f"{ARTIFACTS}/{fingerprint[:16]}"  # a second bundle of the same run must not overwrite the first
        client.log_artifacts(run_id, str(folder), place)
        with tempfile.TemporaryDirectory() as scratch:
            write_model_files(folder, Path(scratch), run_id, place)
            client.log_artifacts(run_id, scratch, place)
        source = f"{client.get_run(run_id).info.artifact_uri}/{place}"
        made = client.create_model_version(model_name, source, run_id, tags={FINGERPRINT_TAG: fingerprint})
        return str(made.version)


def list_versions(name: str = MODEL) -> list[Version]:
    """All versions, newest first; empty if the model was never registered."""
    client = open_tracking()
    with mlflow_errors():
        found = client.search_model_versions(f"name = '{name}'")
        # Search results have no aliases.
        aliases = alias_holders(client, name) if found else {}
    versions = [
        Version(
            name=name,
            version=str(one.version),
            aliases=tuple(sorted(alias for alias, held in aliases.items() if held == str(one.version))),
            run_id=str(one.run_id),
            fingerprint=one.tags.get(FINGERPRINT_TAG, ""),
            created=one.creation_timestamp / 1000,
        )
        for one in found
    ]
    return sorted(versions, key=lambda one: -int(one.version))


def load_bundle(name: str = MODEL, alias_or_version: str = CHAMPION) -> Bundle:
    """Downloads and loads a registered bundle; see :func:`fetched_bundle`."""
    from mmface.bundles.bundle import read_bundle

    version, _ = find_version(name, alias_or_version)
    with fetched_bundle(name, version) as folder:
        return read_bundle(folder, version)


def find_version(name: str, alias_or_version: str) -> tuple[str, str]:
    """The version for an alias or a version number, and the fingerprint of its bundle.

    Raises:
        RegistryError: the model, alias or version does not exist.
    """
    client = open_tracking()
    version = alias_or_version if alias_or_version.isdigit() else get_alias(name, alias_or_version)
    if version is None:
        known = known_versions(client, name)
        message = f"{name} has no alias {alias_or_version!r}: run mmface retrain, or name one of {known}"
        raise RegistryError(message, field="alias")
    require_version(client, name, version)
    with mlflow_errors():
        return version, client.get_model_version(name, version).tags.get(FINGERPRINT_TAG, "")


@contextmanager
def fetched_bundle(name: str, version: str) -> Iterator[Path]:
    """A context with the folder of a registered bundle, whose files were checked against the fingerprint.

    Raises:
        RegistryError: the version does not exist, or its files have changed.
    """
    from mlflow.artifacts import download_artifacts

    from mmface.bundles.bundle import bundle_fingerprint

    _, expected = find_version(name, version)
    with scratch_folder() as scratch:
        with mlflow_errors():
            uri = open_tracking().get_model_version_download_uri(name, version)
            # Files on this machine are not copied.
            place = {} if urlsplit(uri).scheme in ("", "file") else {"dst_path": str(scratch)}
            folder = Path(download_artifacts(artifact_uri=uri, **place, **_servers()))
        if bundle_fingerprint(folder) != expected:
            message = f"the files of {name} version {version} have changed; register the bundle again"
            raise RegistryError(message, field="bundle")
        yield folder


def read_file(name: str, version: str, file: str) -> str:
    """The text of one file of a registered bundle.

    Raises:
        RegistryError: the file is missing.
    """
    from mlflow.artifacts import download_artifacts

    if file not in list_files(name, version):
        message = f"{file} of {name} version {version} is missing; register its bundle again or delete the version"
        raise RegistryError(message, field=file)
    with mlflow_errors(), scratch_folder() as scratch:
        uri = f"{open_tracking().get_model_version_download_uri(name, version)}/{file}"
        path = download_artifacts(artifact_uri=uri, dst_path=str(scratch), **_servers())
        return Path(path).read_text(encoding="utf-8")


def list_files(name: str, version: str) -> list[str]:
    """Names of the files and folders at the top of a registered bundle."""
    from mlflow.artifacts import list_artifacts

    with mlflow_errors():
        uri = open_tracking().get_model_version_download_uri(name, version)
        return [one.path.rpartition("/")[2] for one in list_artifacts(artifact_uri=uri, tracking_uri=tracking_uri())]


def _servers() -> dict[str, str]:
    return {"tracking_uri": tracking_uri(), "registry_uri": tracking_uri()}


def _ensure_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


__all__ = [
    "CHAMPION",
    "MODEL",
    "Version",
    "fetched_bundle",
    "find_version",
    "finish_run",
    "get_alias",
    "list_files",
    "list_versions",
    "load_bundle",
    "log_artifact",
    "log_metrics",
    "open_tracking",
    "read_file",
    "register_bundle",
    "rollback",
    "set_alias",
    "start_run",
    "tracking_uri",
]
