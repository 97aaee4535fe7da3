"""Parquet: one image per row, listed from the footers only and read one row group at a time."""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmface.config import Collection
from mmface.errors import InputError
from tests.mmface.data.sources.made import encoded, listed, picture, read, write

PICTURES = [encoded(picture(seed=i)) for i in range(5)]
MASK = encoded(Image.new("L", (80, 64), 3))


def parquet(columns: dict[str, list[Any]], group: int = 2) -> bytes:
    sink = BytesIO()
    pq.write_table(pa.table(columns), sink, row_group_size=group)
    return sink.getvalue()


def collection(root: Path | str, **keys: str) -> Collection:
    return Collection(name="rows", layout="parquet", images=str(root), **keys)


def test_images_may_be_bytes_or_structs(tmp_path: Path):
    structs = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(PICTURES[3:])]
    write(
        tmp_path,
        {
            "deep/a.parquet": parquet(
                {
                    "image": PICTURES[:3],
                    "mask": [None, MASK, None],
                    "captions": [["one", "two\nlines"], None, []],
                    "other": [1, 2, 3],
                }
            ),
            "z.parquet": parquet({"image": structs}),
            "readme.md": "words",
        },
    )
    rows = read(collection(tmp_path)).rows
    assert [row["id"] for row in rows] == [hashlib.sha256(data).hexdigest() for data in PICTURES]
    assert [row["uri"].removeprefix(f"{tmp_path}/") for row in rows] == [
        *(f"deep/a.parquet#{i}" for i in range(3)),
        *(f"z.parquet#{i}" for i in range(2)),
    ]
    assert [row["mask"] for row in rows] == [None, MASK, None, None, None]
    assert rows[0]["captions"] == ["one", "two lines"]
    assert listed(collection(tmp_path)).ignored == 1


def test_rows_without_an_image_are_quarantined(tmp_path: Path):
    write(tmp_path, {"a.parquet": parquet({"image": [PICTURES[0], None, b"words"]})})
    result = read(collection(tmp_path))
    assert [row["message"] for row in result.quarantined] == ["the file is empty", "not a jpg, png or webp image"]
    write(tmp_path, {"a.parquet": parquet({"image": ["a.png"]})})
    assert "holds str; expected the bytes" in read(collection(tmp_path)).quarantined[0]["message"]


def test_rows_of_a_damaged_row_group_are_quarantined_and_the_others_read(tmp_path: Path):
    data = bytearray(parquet({"image": PICTURES}, group=2))
    page = pq.ParquetFile(BytesIO(data)).metadata.row_group(1).column(0).data_page_offset
    data[page : page + 16] = b"\xff" * 16
    write(tmp_path, {"a.parquet": bytes(data)})
    result = read(collection(tmp_path))
    assert [row["id"] for row in result.rows] == [hashlib.sha256(PICTURES[i]).hexdigest() for i in (0, 1, 4)]
    assert ["row group 1 of" in row["message"] for row in result.quarantined] == [True, True]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"words", "not a Parquet file"),
        (parquet({"picture": PICTURES}), "no column image"),
        (b"", "not a Parquet file"),
    ],
)
def test_files_that_are_not_parquet_or_have_no_image_column_are_refused(tmp_path: Path, data: bytes, message: str):
    write(tmp_path, {"a.parquet": data})
    with pytest.raises(InputError, match=message) as caught:
        listed(collection(tmp_path))
    assert caught.value.field == "sources.0.images"


def test_lists_name_parquet_files(tmp_path: Path):
    write(
        tmp_path,
        {
            "data/train-0.parquet": parquet({"image": PICTURES[:2]}),
            "data/test-0.parquet": parquet({"image": PICTURES[2:]}),
            "lists/test.txt": "test-0.parquet\n",
            "lists/train.txt": "train-0.parquet\n",
        },
    )
    given = collection(f"{tmp_path}/data", split=f"{tmp_path}/lists")
    assert [file.split for file in listed(given).files] == ["test"] * 3 + ["train"] * 2
