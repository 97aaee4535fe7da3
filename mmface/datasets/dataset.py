"""Published datasets (§6): ``datasets/<stage>/<fingerprint>/`` with ``manifest.json`` written last.

Readers ignore a folder without a manifest. If two processes publish the same dataset, the first manifest wins.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmface.datasets.manifest import MANIFEST, File, Identity, Manifest
from mmface.datasets.records import QUARANTINE
from mmface.errors import DatasetError, disk_error
from mmface.store import Store
from mmface.store.tables import read_table


class Dataset:
    """A published dataset; opened by :func:`open_dataset`."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self.store = store
        self.manifest = manifest
        self.uri = store.uri

    def table(self, columns: list[str] | None = None, *, folder: str = "data") -> pa.Table:
        """All rows of ``folder`` in file order, as one Arrow table."""
        tables = [self.part(file.path, columns) for file in self.parts(folder)]
        if not tables:
            raise DatasetError(f"{self.uri} has no {folder} rows", field=self.manifest.stage)
        return pa.concat_tables(tables)

    def parts(self, folder: str = "data") -> list[File]:
        """The parquet files of ``folder``, in order."""
        return [file for file in self.manifest.files if file.path.startswith(f"{folder}/")]

    def part(self, path: str, columns: list[str] | None = None) -> pa.Table:
        """One parquet file; from S3 only ``columns`` are fetched."""
        with self.store.open(path) as file:
            return read_table(file, columns)

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns in ``data`` with their types."""
        with self.store.open(self.parts()[0].path) as file:
            return pq.read_schema(file)

    @property
    def columns(self) -> list[str]:
        """Names of the columns in ``data``."""
        return list(self.schema.names)

    def quarantine(self) -> pa.Table:
        """The quarantined rows with their reasons."""
        tables = [self.part(file.path) for file in self.parts("quarantine")]
        return pa.concat_tables(tables) if tables else QUARANTINE.empty_table()

    def read(self, path: str) -> bytes:
        """Bytes of a file. Raises DatasetError if the manifest does not list the file or the checksum differs."""
        entry = next((file for file in self.manifest.files if file.path == path), None)
        if entry is None:
            raise DatasetError(f"{path} is not in {self.uri}", field=self.manifest.stage)
        data = self.store.read(path)
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise DatasetError(f"{path} in {self.uri} is damaged (its checksum differs)", field=self.manifest.stage)
        return data

    def download(self, prefix: str, folder: Path) -> Path:
        """Copies the dataset's files below ``prefix`` into ``folder``.

        Raises:
            DatasetError: a file is damaged.
            ServiceError: a file cannot be written to ``folder``.
        """
        for file in self.manifest.files:
            if file.path.startswith(f"{prefix}/"):
                data, target = self.read(file.path), folder / file.path.removeprefix(f"{prefix}/")
                try:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(data)
                except OSError as error:
                    message = f"{target} cannot be written: {error.strerror}; make room or set TMPDIR"
                    raise disk_error(error, message, field="TMPDIR") from error
        return folder


def open_dataset(uri: str) -> Dataset:
    """Opens a published dataset. If the home was moved, the manifest's inputs are changed to their present place.

    Raises:
        DatasetError: there is no manifest: the dataset was never published or its stage still runs.
    """
    store = Store(uri)
    if not store.exists(MANIFEST):
        raise DatasetError(f"{uri} has no {MANIFEST}: it was never published; run the stage again", field="uri")
    manifest = Manifest.model_validate_json(store.read(MANIFEST))
    inputs = {name: _locate(source, store.uri) for name, source in manifest.inputs.items()}
    return Dataset(store, manifest.model_copy(update={"inputs": inputs}))


def _locate(source: str, dataset: str) -> str:
    """URI of the input ``source``: in the home of ``dataset`` if it is published there, otherwise ``source`` itself."""
    place, key = dataset.rsplit("/", 3)[0], source.rstrip("/").split("/")[-3:]
    here = "/".join([place, *key])  # below a home: datasets/<stage>/<fingerprint>
    return here if here != source and Store(here).exists(MANIFEST) else source


def upstream(uri: str) -> dict[str, Dataset]:
    """The dataset at ``uri`` and everything it was made from, by stage; every dataset comes after its inputs."""
    found: dict[str, Dataset] = {}

    def visit(at: str) -> None:
        dataset = open_dataset(at)
        if dataset.manifest.stage in found:
            return
        for source in dataset.manifest.inputs.values():
            visit(source)
        found[dataset.manifest.stage] = dataset

    visit(uri)
    return found


def published(home: Store, identity: Identity) -> str | None:
    """URI of the dataset with this identity; None if it is not published."""
    store = home.child(identity.key)
    return store.uri if store.exists(MANIFEST) else None


class Publisher:
    """Writes the files of one dataset and, last, its manifest.

    Files that an earlier, interrupted attempt wrote are kept: :meth:`finished` lists them, so that a resumed stage
    skips them. ``work/`` holds temporary files of the stage; publishing deletes it.
    """

    def __init__(self, home: Store, identity: Identity) -> None:
        self.identity = identity
        self.store = home.child(identity.key)
        self.started = time.monotonic()
        self.written: dict[str, File] = {}

    def finished(self, folder: str) -> set[str]:
        """Paths of the files that exist below ``folder``."""
        return {entry.key for entry in self.store.list(folder)}

    def write(self, path: str, data: bytes) -> None:
        """Writes one file atomically."""
        self.store.write(path, data)
        self.written[path] = File.of(path, data)

    def publish(
        self, counts: Mapping[str, int], *, extra: Mapping[str, Any] | None = None, files: Iterable[File] = ()
    ) -> str:
        """Writes the manifest with all files and their checksums and returns the URI; the first of two publishers wins.

        Args:
            counts: rows by outcome.
            extra: further facts for the manifest.
            files: entries that are known already; files that were not written by :meth:`write` are otherwise read.

        Raises:
            DatasetError: the counts do not add up: in = out + quarantined + duplicates + filtered.
        """
        check_counts(self.identity.stage, counts)
        known = {file.path: file for file in files} | self.written
        paths = [
            entry.key for entry in self.store.list() if not entry.key.startswith("work/") and entry.key != MANIFEST
        ]
        manifest = Manifest(
            stage=self.identity.stage,
            fingerprint=self.identity.fingerprint,
            recipe_key=self.identity.recipe_key,
            config=self.identity.config,
            inputs=self.identity.inputs,
            weights=self.identity.weights,
            counts=dict(counts),
            files=[known.get(path) or File.stored(self.store, path) for path in paths],
            extra=dict(extra or {}),
            code_version=version("mmface"),
            seconds=round(time.monotonic() - self.started, 3),
        )
        self.store.write(MANIFEST, manifest.model_dump_json(indent=1).encode(), if_absent=True)
        for entry in self.store.list("work"):
            self.store.delete(entry.key)
        self.store.sweep()
        return self.store.uri


def check_counts(stage: str, counts: Mapping[str, int]) -> None:
    """Raises DatasetError unless every input row is counted once (§6): in = out + quarantined + duplicates +
    filtered."""
    if "in" not in counts:
        return
    out = sum(counts.get(name, 0) for name in ("out", "quarantined", "duplicates", "filtered"))
    if counts["in"] != out:
        message = f"the counts do not add up: {dict(counts)}; nothing was published; this is a bug in the stage"
        raise DatasetError(message, field=stage)
