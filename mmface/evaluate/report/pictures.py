"""Draws samples: a contact sheet as PNG, and small images for inlining into a page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import pyarrow.compute as pc
from PIL import Image, ImageDraw, ImageFont

from mmface.datasets.dataset import Dataset

TILE = 128  # pixels per image of the contact sheet
GAP = 8
HEAD = 20
COLUMNS = ("condition", "generated", "source")


def choose(samples: Dataset, n: int, modalities: Sequence[str] = ("mask", "sketch")) -> list[dict[str, Any]]:
    """The first ``n`` samples of each modality by id, so that nobody picks the best ones; reads no other pictures."""
    found = [
        (modality, row["id"], file.path)
        for file in samples.parts()
        for row in samples.part(file.path, ["id", "modality"]).to_pylist()
        if (modality := row["modality"]) in modalities
    ]
    wanted = [one for modality in modalities for one in sorted(one for one in found if one[0] == modality)[:n]]
    return rows_of(samples, {name: path for _, name, path in wanted})


def rows_of(samples: Dataset, places: Mapping[str, str]) -> list[dict[str, Any]]:
    """The rows with the ids ``places``, in that order; each id with the path of its part."""
    rows = {
        row["id"]: row
        for path in sorted(set(places.values()))
        for row in samples.part(path).filter(pc.field("id").isin(list(places))).to_pylist()
    }
    return [rows[name] for name in places]


def grid(samples: Dataset, n: int = 16) -> bytes:
    """A contact sheet as PNG: triples condition | generated | source, four per line, masks first, then sketches.

    Args:
        samples: a ``samples`` dataset.
        n: number of samples per modality.
    """
    chosen = choose(samples, n)
    groups = [[row for row in chosen if row["modality"] == kind] for kind in ("mask", "sketch")]
    lines = [group[start : start + 4] for group in groups for start in range(0, len(group), 4)]
    width = max((len(line) for line in lines), default=1)
    triple = len(COLUMNS) * TILE + 2 * 2
    size = (GAP + width * (triple + GAP), HEAD + GAP + max(1, len(lines)) * (TILE + GAP))
    sheet = Image.new("RGB", size, (250, 250, 249))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for block in range(width):
        for k, title in enumerate(COLUMNS):
            left = GAP + block * (triple + GAP) + k * (TILE + 2)
            draw.text((left + TILE // 2, HEAD // 2 + 3), title, fill=(90, 90, 88), font=font, anchor="mm")
    for i, line in enumerate(lines):
        for block, row in enumerate(line):
            for k, column in enumerate(COLUMNS):
                corner = (GAP + block * (triple + GAP) + k * (TILE + 2), HEAD + GAP + i * (TILE + GAP))
                sheet.paste(_tile(row[column], TILE), corner)
    return _encode(sheet, "PNG")


def strip(sheets: Sequence[tuple[int, bytes]], most: int = 8) -> bytes:
    """The same drawings over the steps of training, as PNG: mask, what each sheet painted from it, photograph.

    Args:
        sheets: (step, PNG) as :meth:`mmface.train.watch.previews.Previews.sheet` makes them, by step.
        most: sheets to show, evenly chosen; the last one always.
    """
    count = min(most, len(sheets))
    chosen = [sheets[round((i + 1) * len(sheets) / count) - 1] for i in range(count)]
    opened = [(step, Image.open(BytesIO(data)).convert("RGB")) for step, data in chosen]
    last = opened[-1][1]
    side, rows = last.width // 5, 5 * last.height // last.width
    photograph, mask, painted = range(3)  # columns of a sheet
    columns = [("mask", _column(last, mask)), *((f"step {step}", _column(one, painted)) for step, one in opened)]
    columns.append(("photograph", _column(last, photograph)))
    picture = Image.new("RGB", (len(columns) * (side + 2), HEAD + GAP + rows * side), (250, 250, 249))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=13)
    for i, (title, column) in enumerate(columns):
        draw.text((i * (side + 2) + side // 2, HEAD // 2 + 3), title, fill=(90, 90, 88), font=font, anchor="mm")
        picture.paste(column.resize((side, rows * side), Image.Resampling.NEAREST), (i * (side + 2), HEAD + GAP))
    return _encode(picture, "PNG")


def _column(sheet: Image.Image, number: int) -> Image.Image:
    """A column of a sheet of five."""
    side = sheet.width // 5
    return sheet.crop((number * side, 0, (number + 1) * side, sheet.height))


def inline(data: bytes, side: int = 256) -> str:
    """A photograph as a JPEG data URI of at most ``side`` pixels."""
    image = Image.open(BytesIO(data)).convert("RGB")
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return f"data:image/jpeg;base64,{base64.b64encode(_encode(image, 'JPEG')).decode()}"


def inline_exact(data: bytes, side: int = 256) -> str:
    """An image as a lossless WebP data URI if it has at most ``side`` pixels; otherwise like :func:`inline`."""
    image = Image.open(BytesIO(data)).convert("RGB")
    if max(image.size) > side:
        return inline(data, side)
    sink = BytesIO()
    image.save(sink, "WEBP", lossless=True)
    return f"data:image/webp;base64,{base64.b64encode(sink.getvalue()).decode()}"


def inline_png(data: bytes) -> str:
    """A PNG file, unchanged, as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def metrics_of(scores: Dataset) -> dict[str, dict[str, float]]:
    """The metrics of every sample by id; Arrow stores them as pairs."""
    return {row["id"]: dict(row["metrics"]) for row in scores.table(["id", "metrics"]).to_pylist()}


def _tile(data: bytes, side: int) -> Image.Image:
    image = Image.open(BytesIO(data)).convert("RGB")
    # Nearest when enlarging: smoothing would make the image look better than it is.
    method = Image.Resampling.LANCZOS if image.width > side else Image.Resampling.NEAREST
    return image.resize((side, side), method)


def _encode(image: Image.Image, form: str) -> bytes:
    sink = BytesIO()
    image.save(sink, form, quality=90)
    return sink.getvalue()
