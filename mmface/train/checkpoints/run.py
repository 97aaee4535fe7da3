"""The checkpoints of a run in a store. A checkpoint without its record is incomplete; files are verified when read.

runs/<run>/step-00000120/   the files of :mod:`mmface.train.checkpoints.state`
    checkpoint.json         the record: step, held-out loss, size and SHA-256 of every file; written last, deleted first
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import tempfile
from collections.abc import Container, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError

from mmface.datasets.manifest import File
from mmface.errors import DatasetError, TrainingError, disk_error
from mmface.store import Store
from mmface.store.scratch import scratch_folder

if TYPE_CHECKING:
    from mmface.train.checkpoints.state import Snapshot

log = logging.getLogger(__name__)

RUNS = "runs"
RECORD = "checkpoint.json"
PIECE = 2**24  # bytes per request
_STEP = re.compile(r"step-(\d+)")


class Record(BaseModel):
    """The content of ``checkpoint.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    step: int
    held_out: float | None
    files: tuple[File, ...]

    @property
    def folder(self) -> str:
        """Name of the checkpoint's folder."""
        return folder_of(self.step)


@dataclass(frozen=True)
class Found:
    """The checkpoint to resume from.

    Attributes:
        damage: for each newer checkpoint, why it cannot be used.
    """

    record: Record
    damage: tuple[str, ...]

    def __str__(self) -> str:
        text = f"resumes from the checkpoint of step {self.record.step}"
        return f"{text}; newer checkpoints are damaged: {'; '.join(self.damage)}" if self.damage else text


class Checkpoints:
    """The checkpoints of one run. Only one process at a time may write them.

    Args:
        home: the store of the home.
        run: name of the run.
        keep_last: how many of the newest checkpoints :meth:`prune` keeps.
    """

    def __init__(self, home: Store, run: str, *, keep_last: int = 2) -> None:
        self.run = run
        self.store = home.child(f"{RUNS}/{run}")
        self.keep_last = keep_last
        self._damaged: set[int] = set()

    def write(self, snapshot: Snapshot) -> Record:
        """Writes a complete checkpoint.

        Raises:
            ServiceError: the store or the scratch space failed; older checkpoints are still complete.
        """
        folder = self.store.child(folder_of(snapshot.step))
        folder.delete(RECORD)
        files = [_write_text(folder, path, text) for path, text in snapshot.texts.items()]
        files += [_write_tensors(folder, path, snapshot) for path in snapshot.tensors]
        record = Record(run=self.run, step=snapshot.step, held_out=snapshot.held_out, files=tuple(files))
        folder.write(RECORD, record.model_dump_json(indent=1).encode())
        self._damaged.discard(snapshot.step)
        return record

    def prune(self) -> None:
        """Deletes all but the last ``keep_last`` complete checkpoints, and every incomplete one."""
        kept = {one.folder for one in islice(self._records(), self.keep_last)}
        folders = {entry.key.partition("/")[0] for entry in self.store.list()}
        for name in sorted(folders - kept):
            self._remove(self.store.child(name))

    def newest(self, folder: Path) -> Found | None:
        """Downloads the newest complete, undamaged checkpoint into ``folder``; None if the run has no checkpoint.

        Compares the checksum of every file. Skips damaged checkpoints with a warning.

        Raises:
            TrainingError: there are checkpoints, but all are damaged.
        """
        self.store.sweep()
        damage: list[str] = []
        for step in self._steps():
            try:
                record = self.record(step)
                self.fetch(record, folder)
            except DatasetError as error:
                damage.append(error.message)
                self._damaged.add(step)
                continue
            found = Found(record, tuple(damage))
            if damage:
                log.warning("%s %s", self.run, found)
            return found
        if damage:
            remedy = f"restore one, or delete {self.store.uri} to train this phase from its start"
            raise TrainingError(f"all checkpoints are damaged: {'; '.join(damage)}; {remedy}", field=self.run)
        return None

    def latest(self) -> int | None:
        """Step of the newest complete checkpoint, which may be damaged; None if there is none."""
        return next(self._steps(), None)

    def record(self, step: int) -> Record:
        """The record of the checkpoint of ``step``.

        Raises:
            DatasetError: it is missing or cannot be read.
        """
        path = f"{folder_of(step)}/{RECORD}"
        try:
            return Record.model_validate_json(self.store.read(path))
        except ValidationError as error:
            raise DatasetError(f"{path} cannot be read", field=self.run) from error

    def fetch(self, record: Record, folder: Path, *, without: Container[str] = ()) -> None:
        """Deletes ``folder``, then downloads the files of a checkpoint into it, except those in ``without``.

        Raises:
            DatasetError: a file is missing or damaged.
        """
        shutil.rmtree(folder, ignore_errors=True)
        for file in record.files:
            if file.path not in without:
                _download(self.store, f"{record.folder}/{file.path}", file, folder / file.path)

    def remove(self) -> None:
        """Deletes all checkpoints of the run."""
        for folder in {entry.key.partition("/")[0] for entry in self.store.list()}:
            self._remove(self.store.child(folder))
        if self.store.local_path is not None:
            shutil.rmtree(self.store.local_path, ignore_errors=True)  # empty folders

    def _steps(self) -> Iterator[int]:
        """Steps of the complete checkpoints, newest first."""
        names = (entry.key.partition("/") for entry in reversed(self.store.list()))
        matches = (_STEP.fullmatch(name) for name, _, path in names if path == RECORD)
        yield from (int(match[1]) for match in matches if match)

    def _records(self) -> Iterator[Record]:
        """Complete checkpoints not known to be damaged, newest first."""
        for step in self._steps():
            if step in self._damaged:
                continue
            try:
                yield self.record(step)
            except DatasetError as error:
                log.warning("%s", error)

    def _remove(self, folder: Store) -> None:
        folder.delete(RECORD)
        for entry in folder.list():
            folder.delete(entry.key)
        if folder.local_path is not None:
            shutil.rmtree(folder.local_path, ignore_errors=True)  # empty folders


def folder_of(step: int) -> str:
    """Name of a checkpoint's folder; sorting the names sorts the steps."""
    return f"step-{step:08d}"


def _write_text(folder: Store, path: str, text: str) -> File:
    data = text.encode()
    folder.write(path, data)
    return File.of(path, data)


def _write_tensors(folder: Store, path: str, snapshot: Snapshot) -> File:
    try:
        with scratch_folder() as scratch:
            local = scratch / path
            local.parent.mkdir(parents=True, exist_ok=True)
            snapshot.save_tensors(path, local)
            folder.write_file(path, local)
            return File.stored(Store(scratch), path)
    except (OSError, SafetensorError) as error:
        message = f"cannot write {path} to {tempfile.gettempdir()}: {error}; free space there or set TMPDIR"
        raise disk_error(error, message, field="TMPDIR") from error


def _download(store: Store, key: str, file: File, target: Path) -> None:
    digest, size = hashlib.sha256(), 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as copy:
            for piece in _readable(store, key):
                digest.update(piece)
                size += copy.write(piece)
    except OSError as error:
        message = f"cannot write {target}: {error}; free space there or set TMPDIR"
        raise disk_error(error, message, field="TMPDIR") from error
    if size != file.size:
        raise DatasetError(f"{key} has {size} bytes instead of {file.size}", field="checkpoint")
    if digest.hexdigest() != file.sha256:
        raise DatasetError(f"{key} is damaged (its checksum differs)", field="checkpoint")


def _readable(store: Store, key: str) -> Iterator[bytes]:
    """Yields the pieces of a file; a read error counts as damage."""
    try:
        yield from store.chunks(key, PIECE)
    except OSError as error:
        raise DatasetError(f"{key} cannot be read: {error}", field="checkpoint") from error
