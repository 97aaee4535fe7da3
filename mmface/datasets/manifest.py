"""The identity of a dataset, which gives its name, and the manifest, which describes its content (§6).

The fingerprint hashes the stage and its version, the canonical config, the identity of the weights and the
fingerprints of the inputs.
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
REPLAY = "replay"  # key of a config: number of the replay of quarantined rows


class File(BaseModel):
    """A manifest's entry of one file, with what is needed to verify the file."""

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
        """The entry of a file that is stored already; reads it in pieces."""
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
    """The content of ``manifest.json``: what a dataset is, what it was made from, and what it holds."""

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
    """Everything that determines a dataset's name, known before any work is done.

    Attributes:
        listing: keys of ``config`` that select the rows and do not affect how a row is computed.
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
        """Hash of the identity, 16 hex digits; inputs enter by their fingerprints, not by where they are stored."""
        inputs = {name: uri.rstrip("/").rsplit("/", 1)[-1] for name, uri in self.inputs.items()}
        return fingerprint(self.stage, self.version, self.config, inputs, self.weights)

    @property
    def recipe_key(self) -> str:
        """Hash of how a row is computed, without inputs and ``listing``: with equal keys, equal input rows give equal
        output rows."""
        config = {name: value for name, value in self.config.items() if name not in self.listing}
        return fingerprint(self.stage, self.version, config, self.weights)

    @property
    def key(self) -> str:
        """The dataset's folder, relative to the home."""
        return f"datasets/{self.stage}/{self.fingerprint}"

    def attempt(self, number: int) -> Identity:
        """The identity of the ``number``-th replay; 0 is the first run, whose config has no ``replay`` key.

        ``replay`` is in ``listing``: a replay reuses the output rows of the first run and computes only the others.
        """
        config = {name: value for name, value in self.config.items() if name != REPLAY}
        listing = tuple(name for name in self.listing if name != REPLAY)
        if number:
            config, listing = config | {REPLAY: number}, (*listing, REPLAY)
        return self.model_copy(update={"config": config, "listing": listing})
