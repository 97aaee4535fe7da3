"""Reporting the progress of training while MLflow or the store is unreachable."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmface.bundles import tracking
from mmface.errors import RegistryError, ServiceError, TrainingError, UnreachableError
from mmface.store import Store
from ray_jobs.shared import instruments
from ray_jobs.shared.instruments import Progress, Tracker


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """The lines that are logged, independent of the settings of parent loggers."""

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(record.getMessage())

    kept: list[str] = []
    logger, handler, before = instruments.log, Kept(), instruments.log.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield kept
    logger.removeHandler(handler)
    logger.setLevel(before)


def test_metrics_that_mlflow_did_not_accept_are_sent_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv(tracking.TRACKING_VARIABLE, uri)
    run = tracking.start_run("test")
    answering = tracking.log_metrics

    def away(*arguments: object) -> None:
        raise UnreachableError("no MLflow answers")

    def logged() -> list[int]:
        return [metric.step for metric in tracking.open_tracking().get_metric_history(run, "train/loss")]

    tracker = Tracker(run, uri, offset=100)
    tracker.log({"step": 2, "loss": 1.0})
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "log_metrics", away)
        patch.setattr(tracking, "log_artifact", away)
        for step in (4, 6):
            tracker.log({"step": step, "loss": 1.0})
        tracker.picture("step-000106.png", b"PNG")
    assert logged() == [102]
    assert "no MLflow answers; 2 lines of metrics are kept and sent later" in lines
    assert "no MLflow answers; the picture step-000106.png is not stored" in lines
    assert tracking.log_metrics is answering
    tracker.log({"step": 8, "loss": 1.0})
    assert logged() == [102, 104, 106, 108]
    again = Tracker(run, uri, offset=100)  # a restart logs the whole history again
    for step in (2, 4, 6, 8, 10):
        again.log({"step": step, "loss": 1.0})
    assert logged() == [102, 104, 106, 108, 110]


def test_a_deleted_mlflow_run_does_not_end_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv(tracking.TRACKING_VARIABLE, uri)
    run = tracking.start_run("test")
    deleted, purged = Tracker(run, uri, offset=0), Tracker("0" * 32, uri, offset=0)
    deleted.log({"step": 2, "loss": 1.0})
    tracking.open_tracking().delete_run(run)
    for tracker in (deleted, purged):
        tracker.log({"step": 4, "loss": 1.0})
        tracker.log({"step": 6, "loss": 1.0})
        tracker.picture("step-000006.png", b"PNG")
        assert len(lines) == 1, "logged once"
        assert lines[0].startswith(f"MLflow refuses metrics of run {tracker.run} (")
        assert lines.pop().endswith("training continues without them")
    with pytest.raises(RegistryError):  # not UnreachableError: flows treat the two differently
        tracking.finish_run(run)


def test_an_unreachable_store_hides_neither_the_error_of_training_nor_later_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    monkeypatch.setattr(instruments, "POLL_SECONDS", 0.01)
    progress = Progress(Store(tmp_path), "run")
    read, asked = Store.exists, []

    def exists(self: Store, key: str) -> bool:
        asked.append(key)
        if len(asked) < 3:
            raise ServiceError("S3 does not answer")
        return read(self, key)

    def gone(self: Store, key: str) -> None:
        raise ServiceError("NoSuchBucket")

    monkeypatch.setattr(Store, "exists", exists)

    def train() -> None:
        with progress.shown():
            progress.write("step 4/8")
            end = time.monotonic() + 30
            while "step 4/8" not in lines and time.monotonic() < end:
                time.sleep(0.01)
            monkeypatch.setattr(Store, "delete", gone)
            raise TrainingError("that of step 4 is safe")

    with pytest.raises(TrainingError, match="that of step 4 is safe"):
        train()
    assert lines == ["step 4/8", "cannot delete the progress line: NoSuchBucket"]
