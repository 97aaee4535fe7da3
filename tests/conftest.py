"""Fixtures for all tests: one Ray (``ray_session``), one Prefect server and one S3 server for the whole session."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("mmface", deadline=None)  # a slow machine must not fail a test
settings.load_profile("mmface")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Torch reads these when it is imported. Threads that wait must not take the processors from other processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "0")
PREFECT_START_SECONDS = 180
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", str(PREFECT_START_SECONDS))

# Background jobs of a shell ignore SIGINT, and the child processes that tests interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_handlers_left() -> Iterator[None]:
    """Removes the log handlers that the command line adds: they write to a stream that is closed after the test."""
    loggers = [logging.getLogger(name) for name in ("flows", "ray_jobs", "mmface", "serve")]
    before = [list(one.handlers) for one in loggers]
    yield
    for one, handlers in zip(loggers, before, strict=True):
        one.handlers[:] = handlers


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    import ray

    options = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
    ray.init(address="local", num_cpus=2, **options)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """The only server of the process: clients that Prefect caches would otherwise call an earlier server."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=PREFECT_START_SECONDS):
        yield


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database with the current schema, to be copied: creating one takes seconds."""
    from mmface.bundles.tracking import open_tracking

    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MMFACE_HOME", str(folder))
        open_tracking()
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A real S3 server on loopback; its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """``s3://…`` address of an empty bucket, with the environment set to reach it."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="faces")
    return "s3://faces"
