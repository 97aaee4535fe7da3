"""Reports the progress of training: lines in the driver's log, metrics in the MLflow run."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mmface.bundles import tracking
from mmface.datasets.records import PREVIEWS
from mmface.errors import DatasetError, RegistryError, ServiceError
from mmface.store import Store

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0


class Tracker:
    """Logs the metrics of training to the MLflow run, on rank 0.

    Steps are numbered over all phases, and each is logged once, however often training is restarted.

    Args:
        run: id of the MLflow run.
        uri: URI of the tracking server.
        offset: number of steps of the previous phases.
    """

    def __init__(self, run: str, uri: str, offset: int) -> None:
        os.environ[tracking.TRACKING_VARIABLE] = uri  # a worker's environment may differ from the driver's
        self.run, self.offset = run, offset
        self.last: int | None = None  # last step that MLflow has; None until MLflow was asked
        self.late: list[dict[str, float]] = []  # entries that MLflow has not accepted yet
        self.refused = False  # the run was deleted or refuses these metrics, so it will refuse later ones too

    def log(self, entry: dict[str, float]) -> None:
        """Logs one entry of the history, unless an earlier attempt did, after any entries that are still waiting.

        Never raises: missing metrics must not end training, and the history has them too.
        """
        if self.refused:
            return
        self.late.append(entry)
        try:
            while self.late:
                self._log(self.late[0])
                self.late.pop(0)
        except ServiceError as error:
            log.warning("%s; %d lines of metrics are kept and sent later", error, len(self.late))
        except RegistryError as error:
            self._give_up(error)

    def _give_up(self, error: RegistryError) -> None:
        self.refused = True
        self.late.clear()
        log.warning("MLflow refuses metrics of run %s (%s); training continues without them", self.run, error.message)

    def _log(self, entry: dict[str, float]) -> None:
        if self.last is None:
            client = tracking.open_tracking()
            with tracking.mlflow_errors():
                known = client.get_metric_history(self.run, "train/loss")
            self.last = max((metric.step for metric in known), default=0)
        step = self.offset + int(entry["step"])
        if step > self.last:
            figures = {
                name if "/" in name else f"train/{name}": value for name, value in entry.items() if name != "step"
            }
            tracking.log_metrics(self.run, figures, step)
            self.last = step

    def picture(self, name: str, png: bytes) -> None:
        """Stores a picture as ``previews/<name>``; a restarted run replaces pictures that it paints again."""
        if self.refused:
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(png)
            try:
                tracking.log_artifact(self.run, path, PREVIEWS)
            except ServiceError as error:
                log.warning("%s; the picture %s is not stored", error, name)
            except RegistryError as error:
                self._give_up(error)


def describe(title: str, entry: Mapping[str, float], steps: int) -> str:
    """One line of the log that reports an entry of the history.

    Args:
        entry: the entry, completed with the latest held-out loss if there is one.
    """
    minutes, seconds = divmod(round(entry["eta_s"]), 60)
    held_out = f"  held-out {entry['held_out/loss']:.4f}" if "held_out/loss" in entry else ""
    return (
        f"{title}: step {entry['step']:.0f}/{steps}  loss {entry['loss']:.4f}{held_out}  lr {entry['lr']:.1e}  "
        f"{entry['images_per_s']:.1f} images/s  ETA {minutes}:{seconds:02d}"
    )


class Progress:
    """The latest progress line of a run, passed from its workers to the driver through the store.

    Workers may be on other machines, and Ray does not forward their logs.

    Args:
        store: a store that driver and workers share.
        run: name of the run.
    """

    def __init__(self, store: Store, run: str) -> None:
        self.store, self.key = store, f"progress/{run}"

    def write(self, line: str) -> None:
        """Writes a line for the driver to show."""
        self.store.write(self.key, line.encode())

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Context manager that logs every new line of the workers."""
        self.store.delete(self.key)  # a line of a killed run
        over = threading.Event()
        thread = threading.Thread(target=self._show, args=(over,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            try:
                self.store.delete(self.key)
            except ServiceError as error:  # not raised: it would hide the error that ended the run
                log.warning("cannot delete the progress line: %s", error)

    def _read(self) -> str:
        """The stored line; empty while the store does not answer, since training does not need it."""
        try:
            return self.store.read(self.key).decode() if self.store.exists(self.key) else ""
        except (DatasetError, ServiceError) as error:
            log.debug("cannot read the progress of training: %s", error)
            return ""

    def _show(self, over: threading.Event) -> None:
        last = ""
        while True:
            ending = over.wait(POLL_SECONDS)
            line = self._read()
            if line not in ("", last):
                log.info(line)
            last = line
            if ending:
                return
