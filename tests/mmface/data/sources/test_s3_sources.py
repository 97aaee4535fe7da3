"""Every layout below an ``s3://`` prefix, hashed by ETags; a bucket without read access stops with a clear error."""

from __future__ import annotations

import json
from pathlib import Path

import boto3
import moto
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmface.config import Collection
from mmface.data.sources.identity import identify
from mmface.errors import ServiceError
from mmface.imaging.labels import mask_from_png
from mmface.store import Store
from mmface.store.s3 import S3
from tests.mmface.data.sources.made import encoded, jsonl, listed, picture, read, write

PNG = [encoded(picture(seed=i)) for i in range(3)]
MASK = encoded(Image.new("L", (80, 64), 2))


def parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"image": PNG, "mask": [None, MASK, None]}), sink, row_group_size=1)
    return sink.getvalue().to_pybytes()


FILES: dict[str, dict[str, bytes | str]] = {
    "folder": {
        **{f"images/{i}.png": data for i, data in enumerate(PNG)},
        "masks/1.png": MASK,
        "captions.jsonl": jsonl({"1.png": ["one"]}),
        "lists/test.txt": "1\n",
    },
    "ffhq": {f"00000/0000{i}.png": data for i, data in enumerate(PNG)} | {"masks/00001.png": MASK},
    "celebamask-hq": {
        **{f"CelebA-HQ-img/{i}.jpg": data for i, data in enumerate(PNG)},
        "CelebAMask-HQ-mask-anno/0/00001_nose.png": encoded(Image.new("L", (80, 64), 255)),
        "celeba-caption/1.txt": "one",
        "test.txt": "1",
    },
    "authors": {
        **{f"images/{i}.png": data for i, data in enumerate(PNG)},
        "masks/1.png": MASK,
        "captions/1.txt": "one",
    },
    "parquet": {"a.parquet": parquet()},
}


def collection(root: str, layout: str) -> Collection:
    tree = {"name": "bucket", "layout": layout, "images": f"{root}/{layout}"}
    if layout == "folder":
        folder = {"images": "images", "masks": "masks", "captions": "captions.jsonl", "split": "lists"}
        tree |= {key: f"{root}/folder/{name}" for key, name in folder.items()}
    if layout == "ffhq":
        tree |= {"masks": f"{root}/ffhq/masks"}
    return Collection.model_validate(tree)


@pytest.mark.parametrize("layout", FILES)
def test_a_layout_on_s3_reads_like_the_same_folder(layout: str, s3_bucket: str, tmp_path: Path):
    for root in (f"{s3_bucket}/{tmp_path.name}", str(tmp_path)):
        write(f"{root}/{layout}", FILES[layout])
    there, here = (read(collection(root, layout)).rows for root in (f"{s3_bucket}/{tmp_path.name}", str(tmp_path)))
    assert all(row.pop("uri").startswith("s3://faces/") for row in there)
    assert all(row.pop("uri").startswith(str(tmp_path)) for row in here)
    assert there == here
    assert len(there) == 3
    assert [row["mask"] is None for row in there] == [True, False, True]
    assert (mask_from_png(there[1]["mask"]) == 2).all()


@pytest.mark.parametrize("layout", ["folder", "parquet"])
def test_the_content_hash_on_s3_changes_only_with_the_content(layout: str, s3_bucket: str, tmp_path: Path):
    root, home = f"{s3_bucket}/{tmp_path.name}", Store(tmp_path / "home")
    write(f"{root}/{layout}", FILES[layout])
    before = identify([collection(root, layout)], home)
    write(f"{root}/{layout}", FILES[layout])  # uploaded again
    assert identify([collection(root, layout)], home) == before
    key = "images/0.png" if layout == "folder" else "a.parquet"
    write(f"{root}/{layout}", {key: FILES[layout][key][:-1] + b"x" if layout == "folder" else parquet_of_one()})
    assert identify([collection(root, layout)], home) != before


def parquet_of_one() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"image": PNG[:1]}), sink)
    return sink.getvalue().to_pybytes()


def test_bad_objects_are_quarantined(s3_bucket: str, tmp_path: Path):
    root = f"{s3_bucket}/{tmp_path.name}"
    write(root, {"a.png": PNG[0], "cut.png": PNG[1][:-400], "empty.png": b"", "words.jpg": "words"})
    result = read(Collection(name="bucket", images=root))
    assert len(result.rows) == 1
    assert [row["uri"] for row in result.quarantined] == [f"{root}/{n}" for n in ("cut.png", "empty.png", "words.jpg")]


def test_listing_parquet_downloads_no_images(s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sink = pa.BufferOutputStream()
    pictures = [encoded(picture((700, 700), seed=i)) for i in range(4)]
    pq.write_table(pa.table({"image": pictures}), sink, row_group_size=1)
    root = f"{s3_bucket}/{tmp_path.name}"
    write(root, {"a.parquet": sink.getvalue().to_pybytes()})
    fetched: list[int] = []
    real = S3.read_range

    def counted(self: S3, key: str, start: int, stop: int) -> bytes:
        fetched.append(stop - start)
        return real(self, key, start, stop)

    monkeypatch.setattr(S3, "read_range", counted)
    whole = sum(map(len, pictures))
    rows = Collection(name="rows", layout="parquet", images=root)
    assert len(listed(rows).files) == 4
    assert sum(fetched) < whole / 5
    fetched.clear()
    assert len(read(rows).rows) == 4
    assert sum(fetched) < whole * 1.5


def test_a_missing_bucket_is_refused(s3_bucket: str):
    with pytest.raises(
        ServiceError, match=r"NoSuchBucket.*grant access to list and read the collection bucket"
    ) as caught:
        listed(Collection(name="bucket", images="s3://no-such-bucket/photos"))
    assert caught.value.field == "sources.0"


def test_a_bucket_without_permission_is_refused_with_what_to_do(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = f"{s3_bucket}/{tmp_path.name}"
    write(root, {"a.png": PNG[0]})
    monkeypatch.setattr(moto.settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)
    with pytest.raises(
        ServiceError,
        match=r"refused list_objects_v2: InvalidAccessKeyId.*grant access to list and read the collection bucket",
    ) as caught:
        listed(Collection(name="bucket", images=root))
    assert caught.value.field == "sources.0"


def test_objects_that_cannot_be_read_stop_the_stage(s3_bucket: str, tmp_path: Path):
    root = f"{s3_bucket}/{tmp_path.name}"
    write(root, {"a.png": PNG[0]})
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::faces/*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [deny]})
    client = boto3.client("s3")
    client.put_bucket_policy(Bucket="faces", Policy=policy)
    try:
        with pytest.raises(ServiceError, match="refused get_object"):
            read(Collection(name="bucket", images=root))
    finally:
        client.delete_bucket_policy(Bucket="faces")
