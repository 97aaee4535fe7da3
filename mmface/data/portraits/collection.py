"""Writes a folder of portraits: images, masks, captions and the attribute table."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image

from mmface.data.portraits.portrait import Portrait, draw
from mmface.errors import InputError
from mmface.imaging.labels import mask_to_png


def _drawn(seeds: range, size: int, workers: int) -> Iterator[Portrait]:
    if workers == 1:
        yield from map(partial(draw, size=size), seeds)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(partial(draw, size=size), seeds, chunksize=16)


def write_collection(out: Path, n: int, size: int, seed: int = 0, workers: int = 1) -> None:
    """Draws ``n`` portraits with the seeds ``seed``, ``seed + 1``, … into a folder.

    Writes ``images/<stem>.png``, ``masks/<stem>.png`` (palette PNG), ``captions.jsonl`` (one
    ``{"file", "captions"}`` per line) and ``attributes.csv``. The same arguments write the same bytes.

    Args:
        out: a new or empty folder.
        workers: number of processes that draw.

    Raises:
        InputError: a number is out of range, or ``out`` is a file or a folder that is not empty.
    """
    if n < 1:
        raise InputError(f"{n} is too few: give 1 or more", field="n")
    if not 32 <= size <= 1024:
        raise InputError(f"{size} is outside 32..1024: give a size in that range", field="size")
    if seed < 0:
        raise InputError(f"{seed} is negative: give a seed of 0 or more", field="seed")
    if workers < 1:
        raise InputError(f"{workers} is too few: give 1 or more", field="workers")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not an empty folder: give a new or empty folder", field="out")
    for name in ("images", "masks"):
        (out / name).mkdir(parents=True, exist_ok=True)
    with (
        (out / "captions.jsonl").open("w", encoding="utf-8") as lines,
        (out / "attributes.csv").open("w", encoding="utf-8", newline="") as table,
    ):
        rows = csv.writer(table)
        for i, portrait in enumerate(_drawn(range(seed, seed + n), size, workers)):
            stem = f"{seed + i:06d}"
            Image.fromarray(portrait.image).save(out / "images" / f"{stem}.png")
            (out / "masks" / f"{stem}.png").write_bytes(mask_to_png(portrait.mask))
            lines.write(json.dumps({"file": f"{stem}.png", "captions": list(portrait.captions)}) + "\n")
            if i == 0:
                rows.writerow(["file", *portrait.attributes])
            rows.writerow([f"{stem}.png", *portrait.attributes.values()])
