"""Names that systems write differently match, and no photograph is lost because of its name."""

from __future__ import annotations

import json
import os
import unicodedata
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmface.config import Collection, Data
from mmface.data.sources.identity import identify
from mmface.data.sources.images import Images
from mmface.data.sources.names import canonical
from mmface.datasets.records import IMAGES, ORIGIN, QUARANTINE
from mmface.datasets.stage import Result
from mmface.errors import InputError, shown
from mmface.store import Store
from mmface.store.tables import to_parquet
from tests.mmface.data.sources.made import encoded, jsonl, listed, names, picture, read, write

MASK = encoded(Image.new("L", (80, 64)))


def photos(root: Path, **keys: str) -> Collection:
    return Collection(name="photos", images=f"{root}/images", **{key: f"{root}/{name}" for key, name in keys.items()})


def collect(root: Path, *pictures: str) -> None:
    write(root, {f"images/{name}": encoded(picture(seed=i)) for i, name in enumerate(pictures)})


def splits(collection: Collection) -> dict[str, str | None]:
    return {file.image.key: file.split for file in listed(collection).files}


def stored(result: Result) -> None:
    """Writes the rows as the stage does."""
    to_parquet([{**row, ORIGIN[0]: bytes(32)} for row in result.rows], IMAGES)
    to_parquet(result.quarantined, QUARANTINE)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("zoe\u0308.png", "zoë.png"),
        ("./deep/./a.png", "deep/a.png"),
        ("deep\\a.PNG", "deep/a.png"),
        ("j.doe.Smith", "j.doe.Smith"),
        ("a.JPEG", "a.jpeg"),
        ("half\ud83d.png", "half\ud83d.png"),
    ],
)
def test_names_have_a_canonical_form(written: str, name: str):
    assert canonical(written) == name


def test_unprintable_characters_are_escaped():
    assert shown("a\nb\x1b[31m\udce9\ud83d\u2028.png") == r"a\nb\x1b[31m\xe9\ud83d\u2028.png"
    assert shown("zoë 👩‍🦰.png") == "zoë 👩‍🦰.png"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_does_not_hide_the_first_name_of_a_list(tmp_path: Path, encoding: str):
    collect(tmp_path, "ann.png", "bob.png", "cyd.png", "dee.png")
    write(tmp_path, {"lists/test.txt": "ann.png\r\nbob.png\r\n".encode(encoding)})
    write(tmp_path, {"lists/TRAIN.TXT": "cyd.png\r\ndee.png\r\n".encode(encoding)})
    assert list(splits(photos(tmp_path, split="lists")).values()) == ["test", "test", "train", "train"]


def test_a_list_in_another_encoding_is_refused(tmp_path: Path):
    collect(tmp_path, "ann.png")
    write(tmp_path, {"lists/test.txt": "zoë.png\nann.png\n".encode("latin-1")})
    with pytest.raises(InputError, match=r"sources\.0\.split: .*lists/test\.txt is not text in UTF-8"):
        listed(photos(tmp_path, split="lists"))


def test_decomposed_and_composed_names_match(tmp_path: Path):
    apart = unicodedata.normalize("NFD", "zoë.png")
    collect(tmp_path, apart, "plain.PNG")
    write(
        tmp_path,
        {
            "masks/zoë.png": MASK,
            "captions.jsonl": jsonl({"./zoë.png": ["her"], "images\\..\\plain.png": ["x"], "plain.png": ["it"]}),
            "lists/test.txt": "zoë.png\n",
            "lists/train.txt": ".\\plain.png\n",
        },
    )
    listing = listed(photos(tmp_path, masks="masks", captions="captions.jsonl", split="lists"))
    found = {file.image.key: (len(file.masks), file.captions, file.split) for file in listing.files}
    assert found == {apart: (1, ("her",), "test"), "plain.PNG": (0, ("x", "it"), "train")}


def test_photographs_with_the_same_canonical_name_keep_their_own_masks_and_splits(tmp_path: Path):
    apart = unicodedata.normalize("NFD", "zoë.png")
    collect(tmp_path, apart, "zoë.png", "a.png", "a.PNG")
    write(tmp_path, {f"masks/{apart}": MASK, "masks/zoë.png": MASK, "lists/test.txt": "zoë.png\na.png\n"})
    files = listed(photos(tmp_path, masks="masks", split="lists")).files
    assert sorted(file.image.key for file in files) == sorted([apart, "zoë.png", "a.png", "a.PNG"])
    assert {file.split for file in files} == {"test"}
    assert all(file.masks[0].key == file.image.key for file in files if file.masks)
    assert sum(len(file.masks) for file in files) == 2


@pytest.mark.parametrize("other", [unicodedata.normalize("NFD", "zoë.png"), "./zoë.PNG", "zoë"])
def test_one_photograph_in_train_and_test_lists_is_refused_in_any_spelling(tmp_path: Path, other: str):
    collect(tmp_path, "zoë.png")
    write(tmp_path, {"lists/test.txt": "zoë.png\n", "lists/train.txt": f"{other}\n"})
    with pytest.raises(InputError, match=r"is in train\.txt and in val\.txt or test\.txt"):
        listed(photos(tmp_path, split="lists"))


def test_captions_may_be_one_string_and_a_photograph_may_have_several_lines(tmp_path: Path):
    collect(tmp_path, "ann.png", "bob.png")
    lines = [
        {"file": "ann.png", "captions": "a woman with  red hair"},
        {"file": "bob.png", "captions": ["a man"]},
        {"file": "./ann.png", "captions": ["she smiles", "she waves"]},
    ]
    text = "\n\n  \n".join(json.dumps(line) for line in lines)
    write(tmp_path, {"captions.jsonl": text.encode("utf-8-sig")})
    rows = read(photos(tmp_path, captions="captions.jsonl")).rows
    assert [row["captions"] for row in rows] == [["a woman with red hair", "she smiles", "she waves"], ["a man"]]


def test_caption_files_of_other_tools_are_read(tmp_path: Path):
    collect(tmp_path, "ann.png", "bob.png", "cyd.png")
    write(
        tmp_path,
        {
            "texts/ann.caption": "ann with a scarf",
            "texts/bob.TXT": "bob".encode("utf-16"),
            "texts/cyd.caption": "not this",
            "texts/cyd.txt": "cyd",
            "texts/._ann.txt": bytes(64),
        },
    )
    rows = read(photos(tmp_path, captions="texts")).rows
    assert [row["captions"] for row in rows] == [["ann with a scarf"], ["bob"], ["cyd"]]


def test_parquet_captions_may_be_one_string_and_other_types_are_quarantined(tmp_path: Path):
    def parquet(captions: pa.Array) -> bytes:
        sink = BytesIO()
        images = [encoded(picture(seed=i)) for i in range(len(captions))]
        pq.write_table(pa.table({"image": images, "captions": captions}), sink)
        return sink.getvalue()

    broken = pa.array([b"fine", b"half \xed\xa0\xbd"]).view(pa.string())
    write(
        tmp_path,
        {
            "a.PARQUET": parquet(pa.array(["a woman with  red hair", "", None])),
            "b.parquet": parquet(pa.array([["one", None, "two"]])),
            "c.parquet": parquet(broken),
            "d.parquet": parquet(pa.array([b"bytes"])),
            "e.parquet": parquet(pa.array([{"en": "words"}])),
            "._a.parquet": bytes(64),
        },
    )
    result = read(Collection(name="rows", layout="parquet", images=str(tmp_path)))
    said = [row["captions"] for row in result.rows]
    assert said == [["a woman with red hair"], None, None, ["one", "two"], ["fine"]]
    assert [row["message"] for row in result.quarantined] == [
        "the row holds text that is not UTF-8",
        "column captions must hold strings or lists of strings",
        "column captions must hold strings or lists of strings",
    ]
    stored(result)


def test_names_and_captions_that_are_not_unicode_are_quarantined(tmp_path: Path):
    collect(tmp_path, "ann.png", "bob.png", "line\nbreak.png")
    raw = os.fsencode(tmp_path / "images") + b"/caf\xe9.png"
    Path(os.fsdecode(raw)).write_bytes(encoded(picture(seed=9)))
    write(tmp_path, {"captions.jsonl": jsonl({"ann.png": ["half \ud83d"], "line\nbreak.png": ["it"], "\udce9": ["x"]})})
    collection = photos(tmp_path, captions="captions.jsonl")
    result = read(collection)
    assert names(result.rows) == ["bob.png", r"line\nbreak.png"]
    assert [(name, row["error"]) for name, row in zip(names(result.quarantined), result.quarantined, strict=True)] == [
        ("ann.png", "invalid_input:captions"),
        (r"caf\xe9.png", "invalid_input:image"),
    ]
    assert "half of a surrogate pair" in result.quarantined[0]["message"]
    assert "its file name is not UTF-8" in result.quarantined[1]["message"]
    stored(result)
    home = Store(tmp_path / "home")
    assert identify([collection], home) == identify([collection], home)


def test_a_reason_that_names_an_undecodable_file_can_be_stored(tmp_path: Path):
    write(tmp_path, {f"CelebA-HQ-img/{i}.jpg": encoded(picture(seed=i)) for i in range(2)})
    parts = tmp_path / "CelebAMask-HQ-mask-anno"
    part = Path(os.fsdecode(os.fsencode(parts) + b"/\xe9/00001_skin.png"))
    part.parent.mkdir(parents=True)
    part.write_bytes(MASK)
    collection = Collection(name="celeba", layout="celebamask-hq", images=str(tmp_path))
    files = listed(collection).files
    part.unlink()
    stage = Images([collection], Data(min_size=16))
    result = stage([stage.row(file) for file in files])
    assert [row["message"] for row in result.quarantined] == [
        rf"removed since it was listed: \xe9/00001_skin.png is not in {parts}"
    ]
    stored(result)
