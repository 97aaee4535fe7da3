"""Opens MLflow and records the run of a retraining in it (§8).

Without ``MLFLOW_TRACKING_URI`` MLflow uses SQLite in the home folder. MLflow is imported on first use, because the
import is slow. Open a new database in one process before others use it: MLflow's migrations do not support several.
"""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from mmface.errors import CredentialsError, RegistryError, ServiceError, UnreachableError
from mmface.store import HOME_VARIABLE, home

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
EXPERIMENT = "mmface"
ARTIFACTS = "mlartifacts"  # folder next to SQLite's file
# Tables and columns of MLflow's database that hold absolute addresses of artifacts.
ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)
KEY_TAG = "mmface.key"
PARENT_TAG = "mlflow.parentRunId"
REACH_SECONDS = 3.0
NOT_ALLOWED = ("CUSTOMER_UNAUTHORIZED", "UNAUTHENTICATED", "PERMISSION_DENIED")
REFUSED = "BAD_REQUEST"
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


def tracking_uri() -> str:
    """The address in ``MLFLOW_TRACKING_URI``, by default SQLite in the home folder.

    Raises:
        ServiceError: SQLite cannot be used: the home is remote, or its path holds a character that SQLite's address
            cannot.
    """
    given = os.environ.get(TRACKING_VARIABLE)
    if given:
        return given
    root = home().local_path
    if root is None:
        raise ServiceError(
            f"set it to the address of an MLflow server: {HOME_VARIABLE} is not a local folder", field=TRACKING_VARIABLE
        )
    if "?" in str(root):  # SQLite would read the rest as options and create its file outside the home
        message = f"{root} contains '?', which the address of MLflow's SQLite cannot hold; choose another folder"
        raise ServiceError(message, field=HOME_VARIABLE)
    return f"sqlite:///{root / 'mlflow.db'}"


def tracking_exists() -> bool:
    """Whether MLflow exists already. If not, opening it would create its database; nothing was ever registered."""
    uri = tracking_uri()
    return not uri.startswith("sqlite") or _database(uri).is_file()


def open_tracking() -> MlflowClient:
    """Opens MLflow and returns a client. Creates and migrates a local database if necessary.

    Raises:
        ServiceError: the server does not answer within a few seconds, or the address is not valid.
    """
    uri = tracking_uri()
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme == "sqlite":
        _make_parent(_database(uri).parent)
    elif scheme in PORTS:
        _reach(uri, scheme)
    else:
        message = f"{uri!r} is not an address for MLflow: use http(s)://HOST, sqlite:///FILE or the URL of a database"
        raise ServiceError(message, field=TRACKING_VARIABLE)
    from mlflow import MlflowClient

    with mlflow_errors():
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)  # opens the store
    if scheme == "sqlite":
        _follow_move(_database(uri))
    return client


def start_run(
    name: str, tags: Mapping[str, str] | None = None, *, key: str | None = None, parent: str | None = None
) -> str:
    """Starts a run and returns its id. If a run with this ``key`` exists, reopens it instead.

    Args:
        parent: id of the run below which MLflow shows this one.
    """
    client = open_tracking()
    with mlflow_errors():
        experiment = _experiment(client)
        if key is not None:
            found = _find(client, experiment, key)
            if found is not None:
                client.update_run(found.info.run_id, status="RUNNING")
                return str(found.info.run_id)
        labels = {**(tags or {}), **({KEY_TAG: key} if key else {}), **({PARENT_TAG: parent} if parent else {})}
        return str(client.create_run(experiment, run_name=name, tags=labels).info.run_id)


def read_tags(key: str) -> dict[str, str]:
    """The tags of the run with this ``key``; empty if there is none."""
    client = open_tracking()
    with mlflow_errors():
        found = _find(client, _experiment(client), key)
        return dict(found.data.tags) if found is not None else {}


def set_tags(run_id: str, tags: Mapping[str, str]) -> None:
    """Sets tags of a run."""
    client = open_tracking()
    with mlflow_errors():
        for name, value in tags.items():
            client.set_tag(run_id, name, value)


def log_parameters(run_id: str, parameters: Mapping[str, object]) -> None:
    """Records the parameters of a run, which never change."""
    from mlflow.entities import Param

    client = open_tracking()
    with mlflow_errors():
        client.log_batch(run_id, params=[Param(name, str(value)) for name, value in parameters.items()])


def experiment_of(run_id: str) -> str:
    """Id of the experiment that a run belongs to."""
    client = open_tracking()
    with mlflow_errors():
        return str(client.get_run(run_id).info.experiment_id)


def log_metrics(run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
    """Logs metrics of one step."""
    from mlflow.entities import Metric

    client = open_tracking()
    now = int(time.time() * 1000)
    with mlflow_errors():
        client.log_batch(run_id, metrics=[Metric(name, float(value), now, step) for name, value in metrics.items()])


def log_artifact(run_id: str, path: Path, folder: str | None = None) -> None:
    """Stores a file, or the files of a folder, as artifacts of the run."""
    client = open_tracking()
    with mlflow_errors():
        (client.log_artifacts if path.is_dir() else client.log_artifact)(run_id, str(path), folder)


def finish_run(run_id: str, status: str = "FINISHED") -> None:
    """Ends a run as FINISHED, FAILED or KILLED."""
    client = open_tracking()
    with mlflow_errors():
        client.set_terminated(run_id, status)


def _reach(uri: str, scheme: str) -> None:
    """Connects once with a short timeout; MLflow itself would retry for minutes."""
    parts = urlsplit(uri)
    try:
        if scheme in ("http", "https"):
            bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=f"{parts.path.rstrip('/')}/health")
            urllib.request.urlopen(bare.geturl(), timeout=REACH_SECONDS).close()  # noqa: S310
        else:
            socket.create_connection((parts.hostname or "", parts.port or PORTS[scheme]), REACH_SECONDS).close()
    except urllib.error.HTTPError:
        return  # the server answers; if it refuses requests, the client will raise the error
    except (OSError, HTTPException, ValueError) as error:  # URLError is an OSError
        reason = getattr(error, "reason", error)
        place = f"{scheme}://{parts.netloc.rpartition('@')[2]}"  # without user and password
        message = f"MLflow does not answer at {place} ({reason}); start it, or unset {TRACKING_VARIABLE}"
        raise UnreachableError(message, field=TRACKING_VARIABLE) from None


def _database(uri: str) -> Path:
    return Path(uri.partition(":///")[2]).resolve()


def _make_parent(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ServiceError(f"cannot create {folder} ({error.strerror})", field=TRACKING_VARIABLE) from None


def _follow_move(database: Path) -> None:
    """Updates MLflow's absolute addresses of artifacts if the home folder was moved."""
    if not database.is_file():
        return  # a database in memory
    place = _artifacts(database)
    with closing(sqlite3.connect(database, timeout=60.0)) as connection, connection:
        found = connection.execute("SELECT artifact_location FROM experiments WHERE name = ?", (EXPERIMENT,)).fetchone()
        if found is None or found[0] == place.as_uri() or not _was_moved(found[0], place):
            return
        for table, column in ADDRESSES:
            connection.execute(
                f"UPDATE {table} SET {column} = :new || substr({column}, length(:old) + 1)"
                f" WHERE {column} = :old OR substr({column}, 1, length(:old) + 1) = :old || '/'",
                {"new": place.as_uri(), "old": found[0]},
            )
    log.info("%s was moved: updated the address of MLflow's artifacts from %s to %s", database, found[0], place)


def _was_moved(location: str, place: Path) -> bool:
    """Whether ``location`` is the default folder next to a moved database, not one that the user chose."""
    parts = urlsplit(location)
    ours = parts.scheme == "file" and parts.path.endswith(f"/{ARTIFACTS}")
    return ours and (place.is_dir() or not Path(unquote(parts.path)).is_dir())


def _artifacts(database: Path) -> Path:
    return database.parent / ARTIFACTS


def _find(client: MlflowClient, experiment: str, key: str) -> Run | None:
    found = client.search_runs([experiment], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
    return found[0] if found else None


def _experiment(client: MlflowClient) -> str:
    """The id of our experiment, created if necessary; with SQLite its artifacts lie next to the database."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    uri = tracking_uri()
    location = _artifacts(_database(uri)).as_uri() if uri.startswith("sqlite") else None
    try:
        return str(client.create_experiment(EXPERIMENT, location))
    except MlflowException:  # another process created it in the meantime
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            raise
        return str(found.experiment_id)


@contextmanager
def mlflow_errors() -> Iterator[None]:
    """Converts MLflow's exceptions to ours, with a message of one line."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        message = str(error).strip().splitlines()[0]
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_PARAMETER_VALUE"):
            raise RegistryError(message, field="mlflow") from error
        if error.error_code in NOT_ALLOWED:
            kind: type[ServiceError] = CredentialsError
        else:
            kind = ServiceError if error.error_code == REFUSED else UnreachableError
        raise kind(f"MLflow: {message}; check {TRACKING_VARIABLE}", field=TRACKING_VARIABLE) from error
