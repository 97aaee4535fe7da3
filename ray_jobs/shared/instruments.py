"""How training is watched: lines in the driver's log, figures in the MLflow run."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mmface.bundles import tracking
from mmface.errors import DatasetError, RegistryError, ServiceError
from mmface.store import Store

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0


class Tracker:
    """Rank 0's way into the MLflow run: every step once, numbered over all phases, however often it was restarted.

    Args:
        run: id of the MLflow run.
        uri: of the tracking server.
        offset: steps of the phases before this one.
    """

    def __init__(self, run: str, uri: str, offset: int) -> None:
        os.environ[tracking.TRACKING_VARIABLE] = uri  # a worker's environment need not be the driver's
        self.run, self.offset = run, offset
        self.last: int | None = None  # that MLflow has; not known before it was asked
        self.late: list[dict[str, float]] = []
        self.refused = False  # the run was deleted, or does not take such figures: it will not take later ones either

    def log(self, entry: dict[str, float]) -> None:
        """Logs one entry of the history, unless an earlier attempt did, and those that MLflow did not take before.

        Raises nothing: figures are not worth a run, and they are in its history too.
        """
        if self.refused:
            return
        self.late.append(entry)
        try:
            while self.late:
                self._log(self.late[0])
                self.late.pop(0)
        except ServiceError as error:
            log.warning("%s; %d lines are kept for it", error, len(self.late))
        except RegistryError as error:
            self._give_up(error)

    def _give_up(self, error: RegistryError) -> None:
        self.refused = True
        self.late.clear()
        log.warning("MLflow refuses the figures of run %s (%s); training goes on without them", self.run, error.message)

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

    def preview(self, step: int, png: bytes) -> None:
        """Stores a picture as ``previews/step-000500.png``; a restarted run that paints it again replaces it."""
        if self.refused:
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"step-{self.offset + step:06d}.png"
            path.write_bytes(png)
            try:
                tracking.log_artifact(self.run, path, "previews")
            except ServiceError as error:
                log.warning("%s; the preview of step %d is not kept", error, step)
            except RegistryError as error:
                self._give_up(error)


def describe(title: str, entry: Mapping[str, float], steps: int) -> str:
    """One line for a person.

    Args:
        entry: of the history; with the held-out loss of an earlier one, if it was ever measured.
    """
    minutes, seconds = divmod(round(entry["eta_s"]), 60)
    held_out = f"  held-out {entry['held_out/loss']:.4f}" if "held_out/loss" in entry else ""
    return (
        f"{title}: step {entry['step']:.0f}/{steps}  loss {entry['loss']:.4f}{held_out}  lr {entry['lr']:.1e}  "
        f"{entry['images_per_s']:.1f} images/s  ETA {minutes}:{seconds:02d}"
    )


class Progress:
    """The latest line about a run, in the store: workers may be on other machines, and Ray does not pass on their logs.

    Args:
        store: where jobs and workers meet.
        run: name of the run.
    """

    def __init__(self, store: Store, run: str) -> None:
        self.store, self.key = store, f"progress/{run}"

    def write(self, line: str) -> None:
        """Leaves a line for whoever watches."""
        self.store.write(self.key, line.encode())

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Logs every new line meanwhile."""
        self.store.delete(self.key)  # of a run that was killed
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
            except ServiceError as error:  # what ended the run says more
                log.warning("%s", error)

    def _read(self) -> str:
        """The line that lies there; none while the store does not answer, for training goes on without it."""
        try:
            return self.store.read(self.key).decode() if self.store.exists(self.key) else ""
        except (DatasetError, ServiceError) as error:
            log.debug("the progress of training could not be read: %s", error)
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
