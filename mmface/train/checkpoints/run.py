"""The checkpoints of a run in a store, on a folder and on S3 alike: complete or not there, verified when read.

runs/<run>/step-00000120/   the files of :mod:`mmface.train.checkpoints.state`
    checkpoint.json         step, held-out loss, every file with size and SHA-256; written last, deleted first
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
from mmface.errors import DatasetError, ServiceError, TrainingError
from mmface.store import Store
from mmface.store.scratch import scratch_folder

if TYPE_CHECKING:
    from mmface.train.checkpoints.state import Snapshot

log = logging.getLogger(__name__)

RUNS = "runs"
RECORD = "checkpoint.json"
PIECE = 2**24  # bytes that travel in one request
_STEP = re.compile(r"step-(\d+)")


class Record(BaseModel):
    """What ``checkpoint.json`` says."""

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
    """The checkpoint to go on from.

    Attributes:
        damage: why newer ones are not it.
    """

    record: Record
    damage: tuple[str, ...]

    def __str__(self) -> str:
        text = f"goes on from the checkpoint of step {self.record.step}"
        return f"{text}, because {'; '.join(self.damage)}" if self.damage else text


class Checkpoints:
    """The checkpoints of one run; one process at a time writes them.

    Args:
        home: where everything is kept.
        run: name of the run.
        keep_last: how many of the newest stay.
    """

    def __init__(self, home: Store, run: str, *, keep_last: int = 2) -> None:
        self.run = run
        self.store = home.child(f"{RUNS}/{run}")
        self.keep_last = keep_last
        self._damaged: set[int] = set()

    def write(self, snapshot: Snapshot) -> Record:
        """Writes a checkpoint to its end.

        Raises:
            ServiceError: the store or the scratch space failed; what was complete before still is.
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
        """Removes checkpoints that are not among the last, and the remains of unfinished ones."""
        kept = {one.folder for one in islice(self._records(), self.keep_last)}
        folders = {entry.key.partition("/")[0] for entry in self.store.list()}
        for name in sorted(folders - kept):
            self._remove(self.store.child(name))

    def newest(self, folder: Path) -> Found | None:
        """Downloads the newest checkpoint that is whole into ``folder``; None when there is none at all.

        Every file is read and its checksum compared. A damaged checkpoint is passed over with a warning.

        Raises:
            TrainingError: there are checkpoints, and all are damaged.
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
            remedy = f"restore one, or delete {self.store.uri} to train this phase from its beginning"
            raise TrainingError(f"no checkpoint is whole: {'; '.join(damage)}; {remedy}", field=self.run)
        return None

    def latest(self) -> int | None:
        """Step of the newest complete checkpoint, whole or not; None when there is none."""
        return next(self._steps(), None)

    def record(self, step: int) -> Record:
        """What the checkpoint of ``step`` holds. Raises DatasetError if it is not there or cannot be read."""
        path = f"{folder_of(step)}/{RECORD}"
        try:
            return Record.model_validate_json(self.store.read(path))
        except ValidationError as error:
            raise DatasetError(f"{path} cannot be read", field=self.run) from error

    def fetch(self, record: Record, folder: Path, *, without: Container[str] = ()) -> None:
        """Downloads the files of a checkpoint, but those of ``without``, into ``folder``, which is emptied first.

        Raises:
            DatasetError: a file is missing or damaged.
        """
        shutil.rmtree(folder, ignore_errors=True)
        for file in record.files:
            if file.path not in without:
                _download(self.store, f"{record.folder}/{file.path}", file, folder / file.path)

    def remove(self) -> None:
        """Deletes all of the run's checkpoints."""
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
    """Name of a checkpoint's folder; names sort as steps do."""
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
        message = f"{tempfile.gettempdir()} cannot take {path}: {error}; make room or set TMPDIR"
        raise ServiceError(message, field="TMPDIR") from error


def _download(store: Store, key: str, file: File, target: Path) -> None:
    digest, size = hashlib.sha256(), 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as copy:
            for piece in _readable(store, key):
                digest.update(piece)
                size += copy.write(piece)
    except OSError as error:
        raise ServiceError(f"{target} cannot be written: {error}; make room or set TMPDIR", field="TMPDIR") from error
    if size != file.size:
        raise DatasetError(f"{key} has {size} bytes instead of {file.size}", field="checkpoint")
    if digest.hexdigest() != file.sha256:
        raise DatasetError(f"{key} is damaged (its checksum differs)", field="checkpoint")


def _readable(store: Store, key: str) -> Iterator[bytes]:
    """The pieces of a file. A disk that cannot read it has damaged it."""
    try:
        yield from store.chunks(key, PIECE)
    except OSError as error:
        raise DatasetError(f"{key} cannot be read: {error}", field="checkpoint") from error
