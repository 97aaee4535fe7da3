"""Plain folders and the authors' layout: listing, sidecars, and bad files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from mmface.config import Collection, Data
from mmface.data.sources.images import Images
from mmface.data.sources.layouts import list_collections
from mmface.errors import InputError
from tests.mmface.data.sources.made import encoded, jsonl, listed, names, picture, read, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(
        tmp_path,
        {
            **{f"images/{name}": encoded(picture(seed=i)) for i, name in enumerate(["a.png", "b.png", "deep/c.png"])},
            "images/readme.txt": "not listed",
            "images/.hidden.png": "not listed",
            "masks/a.png": encoded(Image.new("L", (80, 64))),
            "captions.jsonl": jsonl({"b.png": ["one", " two\nlines\t"], "deep/c.png": ["three"]}),
        },
    )
    return tmp_path


def photos(folder: Path | str, **keys: str) -> Collection:
    return Collection(
        name="photos", images=f"{folder}/images", **{key: f"{folder}/{name}" for key, name in keys.items()}
    )


def test_a_folder_is_listed_with_its_sidecars(folder: Path):
    listing = listed(photos(folder, masks="masks", captions="captions.jsonl"))
    assert [file.image.key for file in listing.files] == ["a.png", "b.png", "deep/c.png"]
    assert [[mask.key for mask in file.masks] for file in listing.files] == [["a.png"], [], []]
    assert [file.captions for file in listing.files] == [None, ("one", "two lines"), ("three",)]
    assert listing.ignored == 2


def test_a_picture_in_two_collections_is_refused(folder: Path):
    nested = Collection(name="nested", images=f"{folder}/images/deep")
    with pytest.raises(InputError, match=r"sources\.1\.images: .*/deep/c\.png is also in the collection photos"):
        list_collections([photos(folder), nested])


def test_rows_have_their_collection_mask_and_captions(folder: Path):
    rows = read(photos(folder, masks="masks", captions="captions.jsonl")).rows
    assert {row["source"] for row in rows} == {"photos"}
    assert rows[0]["mask"] == (folder / "masks/a.png").read_bytes()
    assert [row["captions"] for row in rows] == [None, ["one", "two lines"], ["three"]]
    assert not any(row["listed"] for row in rows)
    assert {row["note"] for row in rows} == {None}


def test_a_damaged_colour_profile_is_noted_in_the_row(folder: Path):
    write(folder / "images", {"a.png": encoded(picture(), icc_profile=b"junk" * 50)})
    first, *others = read(photos(folder)).rows
    assert first["note"].startswith("its colour profile is damaged")
    assert {row["note"] for row in others} == {None}


def test_bad_files_are_quarantined_with_their_reason(folder: Path):
    loop = folder / "images/loop.png"
    loop.symlink_to(loop)
    (folder / "images/nowhere.png").symlink_to(folder / "gone.png")
    (folder / "images/circle").symlink_to(folder / "images")
    os.mkfifo(folder / "images/pipe.png")
    with (folder / "images/huge.png").open("wb") as file:
        file.truncate(400_000_000)  # sparse; more bytes than an image of 40 megapixels can have
    write(
        folder / "images",
        {
            "empty.jpg": b"",
            "words.jpg": "words",
            "cut.jpg": encoded(picture(), "JPEG")[:300],
            "tiny.png": encoded(picture((10, 10))),
            "moving.webp": encoded(picture(), "WEBP", save_all=True, append_images=[picture(seed=1)]),
            "really-a-jpeg.png": encoded(picture(seed=5), "JPEG"),
            "print.jpg": encoded(picture(mode="CMYK", seed=6), "JPEG"),
            "clear.png": encoded(picture(mode="RGBA", seed=7)),
            "deep16.png": encoded(Image.new("I;16", (64, 64), 300)),
        },
    )
    result = read(photos(folder))
    good = ["a.png", "b.png", "clear.png", "c.png", "deep16.png", "print.jpg", "really-a-jpeg.png"]
    assert names(result.rows) == good
    reasons = {name: row["message"] for name, row in zip(names(result.quarantined), result.quarantined, strict=True)}
    assert {name: reason.split(";")[0] for name, reason in reasons.items() if name != "cut.jpg"} == {
        "empty.jpg": "the file is empty",
        "huge.png": "400,000,000 bytes",
        "loop.png": "a broken link, or not a regular file",
        "moving.webp": "an animation of 2 frames",
        "nowhere.png": "a broken link, or not a regular file",
        "pipe.png": "a broken link, or not a regular file",
        "tiny.png": "10x10 is below data.min_size 16",
        "words.jpg": "not a jpg, png or webp image",
    }
    assert reasons["cut.jpg"].startswith("cannot be decoded")
    assert {row["error"] for row in result.quarantined} == {"invalid_input:image"}


def test_linked_folders_are_followed_and_circular_links_are_counted(folder: Path):
    write(folder, {f"store{i}/{i}{j}.png": encoded(picture(seed=10 * i + j)) for i in (1, 2) for j in (0, 1)})
    write(folder, {"store3/10.png": encoded(Image.new("L", (80, 64)))})
    for name, target in {
        "linked": "store1",
        "deep/linked": "store2",
        "again": "store1",  # a second link to the same folder is not circular
        "circle.png": "images",
        "deep/up": "images/deep",
        "out": ".",  # the folder that contains the collection
    }.items():
        (folder / "images" / name).symlink_to(folder / target)
    (folder / "store1/back").symlink_to(folder / "images/deep")
    (folder / "store2/back").symlink_to(folder / "store2")
    (folder / "images/nowhere").symlink_to(folder / "gone")
    (folder / "masks/linked").symlink_to(folder / "store3")
    listing = listed(photos(folder, masks="masks"))
    below = ("linked/10.png", "linked/11.png", "linked/back/c.png", "linked/back/linked/20.png")
    own = {"a.png", "b.png", "deep/c.png", "deep/linked/20.png", "deep/linked/21.png"}
    found = {file.image.key for file in listing.files}
    assert own | set(below) | {"again/10.png"} <= found
    assert not any(key.startswith(("circle.png", "deep/up", "out", "deep/linked/back")) for key in found)
    assert [file.image.key for file in listing.files if file.masks] == ["a.png", "linked/10.png"]
    assert listing.ignored_suffixes["links in a circle"] == 8
    assert listing.ignored_suffixes["broken links"] == 1
    rows = read(photos(folder)).rows
    assert len({row["id"] for row in rows}) == 7


def test_a_file_removed_after_listing_is_quarantined(folder: Path):
    collection = photos(folder, masks="masks")
    files = listed(collection).files
    (folder / "images/b.png").unlink()
    (folder / "masks/a.png").unlink()
    stage = Images([collection], Data(min_size=16))
    result = stage([stage.row(file) for file in files])
    assert [row["error"] for row in result.quarantined] == ["invalid_input:mask", "invalid_input:image"]
    assert all("removed since it was listed" in row["message"] for row in result.quarantined)


@pytest.mark.parametrize("missing", ["images", "masks", "captions", "split"])
def test_the_error_for_a_missing_folder_names_its_recipe_key(folder: Path, missing: str):
    with pytest.raises(InputError, match="no folder") as caught:
        listed(photos(folder).model_copy(update={missing: f"{folder}/nowhere"}))
    assert caught.value.field == f"sources.0.{missing}"


@pytest.mark.parametrize(
    ("files", "keys", "message"),
    [
        ({"images/readme.txt": "words"}, {}, "no photograph below .* layout folder expects a jpg"),
        ({"captions.jsonl": '{"file": "a.png"}\n'}, {"captions": "captions.jsonl"}, "line 1"),
        ({"captions.jsonl": '{"file": "a.png", "captions": [1]}\n'}, {"captions": "captions.jsonl"}, "line 1"),
        ({"captions.jsonl": '{"file": "a.png", "captions": {"en": "x"}}\n'}, {"captions": "captions.jsonl"}, "line 1"),
        ({"captions.jsonl": "[" * 100_000}, {"captions": "captions.jsonl"}, "line 1"),
        ({"captions.jsonl": b"\xff\xfe"}, {"captions": "captions.jsonl"}, "line 1: .* in UTF-8"),
        ({}, {"captions": "nowhere.jsonl"}, "nowhere.jsonl is not in"),
        (
            {"captions.jsonl": jsonl({"other.png": ["x"]})},
            {"captions": "captions.jsonl"},
            "matches a photograph by name",
        ),
        ({"masks/other.png": "x"}, {"masks": "masks"}, "matches a photograph by name"),
        ({"lists/readme": "x"}, {"split": "lists"}, "none of train.txt"),
        ({"lists/test.txt": "other\n"}, {"split": "lists"}, "matches a photograph by name"),
        (
            {"lists/test.txt": "a\n", "lists/train.txt": "a\n"},
            {"split": "lists"},
            "a is in train.txt and in val.txt or test.txt",
        ),
    ],
)
def test_wrong_sidecars_are_refused(tmp_path: Path, files: dict[str, bytes | str], keys: dict[str, str], message: str):
    pictures = {} if "images/readme.txt" in files else {"images/a.png": encoded(picture())}
    write(tmp_path, pictures | files)
    with pytest.raises(InputError, match=message) as caught:
        listed(photos(tmp_path, **keys))
    assert caught.value.field == f"sources.0.{next(iter(keys), 'images')}"


def test_lists_decide_the_split_and_the_hash_decides_for_other_photographs(folder: Path):
    write(folder, {"lists/train.txt": "a\n\n", "lists/val.txt": "b.png\n", "lists/test.txt": "deep/c.png\n"})
    collection = photos(folder, split="lists")
    assert [file.split for file in listed(collection).files] == ["train", "test", "test"]
    write(folder, {"images/new.png": encoded(picture(seed=9))})
    rows = read(collection, holdout=1.0).rows
    assert [(row["split"], row["listed"]) for row in rows] == [
        ("train", True),
        ("test", True),
        ("test", True),
        ("test", False),
    ]


def test_captions_are_read_from_text_files(folder: Path):
    write(folder, {"texts/a.txt": "\ufeffone\n\n two \r\n", "texts/b.txt": b"\xff\xff"})
    result = read(photos(folder, captions="texts"))
    assert result.rows[0]["captions"] == ["one", "two"]
    assert [row["error"] for row in result.quarantined] == ["invalid_input:captions"]


def test_the_authors_layout_is_read(tmp_path: Path):
    for i in range(2):
        write(
            tmp_path,
            {
                f"images/{i}.jpg": encoded(picture(seed=i), "JPEG"),
                f"masks/{i}.png": encoded(Image.new("L", (80, 64), i)),
                f"sketches/{i}.png": encoded(Image.new("L", (80, 64), 255)),
                f"captions/{i}.txt": "\n".join(f"caption {n} of {i}" for n in range(10)),
            },
        )
    rows = read(Collection(name="mmface", layout="authors", images=str(tmp_path))).rows
    assert names(rows) == ["0.jpg", "1.jpg"]
    assert [len(row["captions"]) for row in rows] == [10, 10]
    assert rows[1]["captions"][3] == "caption 3 of 1"
    assert rows[1]["mask"] == (tmp_path / "masks/1.png").read_bytes()
