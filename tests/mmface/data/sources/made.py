"""Tiny generated images and collections for the tests of the sources."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from mmface.config import Collection, Data
from mmface.data.sources.files import Listing
from mmface.data.sources.images import Images
from mmface.data.sources.layouts import list_collections
from mmface.datasets.stage import Result
from mmface.store import Store


def picture(size: tuple[int, int] = (80, 64), mode: str = "RGB", seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    sink = BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def write(root: str | Path, files: dict[str, bytes | str]) -> None:
    """Writes files below a folder or ``s3://`` prefix."""
    store = Store(root)
    for key, data in files.items():
        store.write(key, data.encode() if isinstance(data, str) else data)


def listed(collection: Collection) -> Listing:
    return list_collections([collection])[0]


def read(*collections: Collection, **data: object) -> Result:
    """Runs the ``images`` stage on the collections."""
    files = [file for listing in list_collections(collections) for file in listing.files]
    stage = Images(collections, Data(min_size=16, **data))
    return stage([stage.row(file) for file in files])


def names(rows: Sequence[dict[str, object]]) -> list[str]:
    return [str(row["uri"]).rsplit("/", 1)[1] for row in rows]


def jsonl(captions: dict[str, list[str]]) -> str:
    return "".join(json.dumps({"file": name, "captions": texts}) + "\n" for name, texts in captions.items())
