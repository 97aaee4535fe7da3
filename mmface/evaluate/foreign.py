"""Images that another system painted for an evaluation set: a folder of files named after the rows (§8).

``mmface evaluate --rows DIR`` writes what another system is asked to paint; ``mmface evaluate --images DIR`` reads its
images, as ``mask/ID.png`` and ``sketch/ID.png``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from PIL import Image

from mmface.datasets.dataset import Dataset
from mmface.errors import InputError
from mmface.evaluate.evalset import sample_id
from mmface.imaging.decode import open_image
from mmface.store import Store

FIELD = "--images"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SHOWN = 5


def wanted_rows(evalset: Dataset) -> dict[str, list[str]]:
    """The modalities of every row of an evaluation set, by the id of its photograph."""
    return {row["id"]: row["modalities"] for row in evalset.table(["id", "modalities"]).to_pylist()}


def match_files(keys: Iterable[str], wanted: Mapping[str, Sequence[str]]) -> tuple[dict[str, str], list[str]]:
    """The file of each sample by the sample's id, and the image files that match no row.

    Args:
        keys: of files, ``MODALITY/ID.png``.
        wanted: from :func:`wanted_rows`.

    Raises:
        InputError: there is no image, no image matches a row, or rows of a modality have no image.
    """
    files = sorted(key for key in keys if key.lower().endswith(SUFFIXES))
    if not files:
        raise InputError(
            f"holds no image ({', '.join(SUFFIXES)}); mmface evaluate --rows writes the names", field=FIELD
        )
    named = {sample_id(row, kind): (row, kind) for row, kinds in wanted.items() for kind in kinds}
    found = {name: key for key in files if (name := _sample_of(key)) in named}
    if not found:
        message = f"none of the {len(files)} images ({_some(files)}) is named after a row as MODALITY/ID.png"
        raise InputError(f"{message}; mmface evaluate --rows writes the names", field=FIELD)
    painted = {named[name][1] for name in found}
    missing = [name for name, (_, kind) in named.items() if kind in painted and name not in found]
    if missing:
        message = f"{len(missing)} rows have no image ({_some(missing)}); paint every row of a modality, or none"
        raise InputError(message, field=FIELD)
    return found, [key for key in files if key not in set(found.values())]


def digest_files(store: Store, files: Mapping[str, str]) -> str:
    """SHA-256 of the samples' ids and their files, as hex."""
    digest = hashlib.sha256()
    for name, key in sorted(files.items()):
        digest.update(f"{name} {hashlib.sha256(store.read(key)).hexdigest()}\n".encode())
    return digest.hexdigest()


def open_painted(data: bytes, key: str, side: int, max_megapixels: float) -> Image.Image:
    """A square image, reduced to ``side`` pixels.

    Raises:
        InputError: it cannot be decoded, is not square, or is smaller; names the file.
    """
    image = open_image(data, max_megapixels, field=key)
    if image.width != image.height or image.width < side:
        message = f"is {image.width} x {image.height} pixels; the evaluation needs squares of at least {side} pixels"
        raise InputError(message, field=key)
    return image if image.width == side else image.resize((side, side), Image.Resampling.LANCZOS)


def write_rows(evalset: Dataset, folder: Path) -> int:
    """Writes the drawings as ``mask/ID.png`` and ``sketch/ID.png``, and ``rows.jsonl``; returns the number of rows.

    A line of ``rows.jsonl`` has id, prompt, seed and modalities.
    """
    lines = []
    for kind in ("mask", "sketch"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for file in evalset.parts():
        for row in evalset.part(file.path, ["id", "mask", "sketch", "prompt", "seed", "modalities"]).to_pylist():
            for kind in ("mask", "sketch"):
                if kind in row["modalities"]:
                    (folder / kind / f"{row['id']}.png").write_bytes(row[kind])
            lines.append(json.dumps({name: row[name] for name in ("id", "prompt", "seed", "modalities")}))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def _sample_of(key: str) -> str:
    path = PurePosixPath(key)
    return sample_id(path.stem, path.parent.name)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
