"""What a dataset is named by and what its manifest says (§6).

The fingerprint names the content: stage and version, canonical config, identity of the weights, fingerprints of the
inputs.
"""

from __future__ import annotations

import hashlib
from typing import Any, Self

import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from mmface.config import fingerprint
from mmface.store import Store
from mmface.store.tables import count_rows

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
REPLAY = "replay"  # key of a config: which further attempt at rows that were set aside


class File(BaseModel):
    """One file of a dataset, with what is needed to verify it."""

    model_config = ConfigDict(frozen=True)

    path: str
    rows: int | None
    size: int
    sha256: str

    @classmethod
    def of(cls, path: str, data: bytes) -> Self:
        """The entry of a file with these bytes."""
        rows = count_rows(data) if path.endswith(".parquet") else None
        return cls(path=path, rows=rows, size=len(data), sha256=hashlib.sha256(data).hexdigest())

    @classmethod
    def stored(cls, store: Store, path: str) -> Self:
        """The entry of a file that was written some other time; reads it in pieces."""
        digest, size = hashlib.sha256(), 0
        for piece in store.chunks(path):
            digest.update(piece)
            size += len(piece)
        rows = None
        if path.endswith(".parquet"):
            with store.open(path) as file:
                rows = int(pq.ParquetFile(file).metadata.num_rows)
        return cls(path=path, rows=rows, size=size, sha256=digest.hexdigest())


class Manifest(BaseModel):
    """What a dataset is, where it came from, and what it holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    stage: str
    fingerprint: str
    recipe_key: str = ""
    config: dict[str, Any]
    inputs: dict[str, str]
    weights: dict[str, str]
    counts: dict[str, int]
    files: list[File]
    extra: dict[str, Any]
    code_version: str
    seconds: float


class Identity(BaseModel):
    """What a dataset will be named by, known before any work is done.

    Attributes:
        listing: keys of ``config`` that say which rows there are, not how one is made.
    """

    model_config = ConfigDict(frozen=True)

    stage: str
    version: int
    config: dict[str, Any]
    inputs: dict[str, str] = {}
    weights: dict[str, str] = {}
    listing: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Inputs count by their fingerprints, not by where they are kept."""
        inputs = {name: uri.rstrip("/").rsplit("/", 1)[-1] for name, uri in self.inputs.items()}
        return fingerprint(self.stage, self.version, self.config, inputs, self.weights)

    @property
    def recipe_key(self) -> str:
        """How a row is made, whatever rows there are: equal keys make equal rows of equal input rows."""
        config = {name: value for name, value in self.config.items() if name not in self.listing}
        return fingerprint(self.stage, self.version, config, self.weights)

    @property
    def key(self) -> str:
        """Folder of the dataset below the home."""
        return f"datasets/{self.stage}/{self.fingerprint}"

    def attempt(self, number: int) -> Identity:
        """The identity of the ``number``-th replay; 0 is the first run, whose config does not speak of it.

        A replay makes rows as the first run did: those that came out are known (``listing``), the others are not.
        """
        config = {name: value for name, value in self.config.items() if name != REPLAY}
        listing = tuple(name for name in self.listing if name != REPLAY)
        if number:
            config, listing = config | {REPLAY: number}, (*listing, REPLAY)
        return self.model_copy(update={"config": config, "listing": listing})
