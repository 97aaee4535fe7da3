"""The hash of a collection depends on its content, not on file times or its folder."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from mmface import plan
from mmface.config import Collection
from mmface.config.load import load_recipe
from mmface.data.sources import identity
from mmface.data.sources.identity import identify
from mmface.store import Entry, Store
from tests.mmface.data.sources.made import encoded, jsonl, picture, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    write(
        root,
        {
            **{f"images/{i}.png": encoded(picture(seed=i)) for i in range(4)},
            "masks/0.png": encoded(Image.new("L", (80, 64))),
            "texts/1.txt": "one",
            "captions.jsonl": jsonl({"1.png": ["one"]}),
            "lists/test.txt": "2\n",
        },
    )
    return root


@pytest.fixture
def home(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def photos(root: Path, captions: str = "captions.jsonl") -> Collection:
    return Collection(
        name="photos",
        images=f"{root}/images",
        masks=f"{root}/masks",
        captions=f"{root}/{captions}",
        split=f"{root}/lists",
    )


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the files whose bytes were read."""
    keys: list[str] = []
    real = identity._sha256

    def counted(place: Store, entry: Entry) -> str:
        keys.append(entry.key)
        return real(place, entry)

    monkeypatch.setattr(identity, "_sha256", counted)
    return keys


def test_a_file_is_hashed_once_and_again_only_after_touch(folder: Path, home: Store, hashed: list[str]):
    first = identify([photos(folder)], home)
    assert sorted(hashed) == ["0.png", "0.png", "1.png", "2.png", "3.png"]
    hashed.clear()
    assert identify([photos(folder)], home) == first
    assert hashed == []
    touch(folder / "images/2.png")
    assert identify([photos(folder)], home) == first
    assert hashed == ["2.png"]


def test_a_copy_in_another_folder_has_the_same_hash(folder: Path, home: Store, tmp_path: Path):
    shutil.copytree(folder, tmp_path / "copy")
    assert identify([photos(tmp_path / "copy")], home) == identify([photos(folder)], home)


@pytest.mark.parametrize(
    "change",
    [
        {"images/3.png": encoded(picture(seed=9))},
        {"images/4.png": encoded(picture(seed=3))},
        {"masks/0.png": encoded(Image.new("L", (80, 64), 1))},
        {"masks/1.png": encoded(Image.new("L", (80, 64)))},
        {"captions.jsonl": jsonl({"1.png": ["two"]})},
        {"lists/test.txt": "3\n"},
    ],
    ids=["picture", "new picture", "mask", "new mask", "caption", "list"],
)
def test_changed_content_changes_the_hash(folder: Path, home: Store, change: dict[str, bytes | str]):
    before = identify([photos(folder)], home)
    write(folder, change)
    assert identify([photos(folder)], home) != before


def test_caption_files_are_hashed_by_content(folder: Path, home: Store):
    before = identify([photos(folder, "texts")], home)
    touch(folder / "texts/1.txt")
    assert identify([photos(folder, "texts")], home) == before
    write(folder, {"texts/1.txt": "two"})
    assert identify([photos(folder, "texts")], home) != before


def test_the_digest_of_an_unreadable_file_is_not_cached(folder: Path, home: Store, monkeypatch: pytest.MonkeyPatch):
    (folder / "images/loop.png").symlink_to(folder / "images/loop.png")
    real = Path.open

    def refused(self: Path, *args: str, **keys: str) -> object:
        if self.name == "3.png":
            raise PermissionError(13, "Permission denied")
        return real(self, *args, **keys)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refused)
        before = identify([photos(folder)], home)
        assert identify([photos(folder)], home) == before
    assert identify([photos(folder)], home) != before


def test_touching_a_file_keeps_fingerprints_and_changing_the_licence_changes_them(folder: Path, home: Store):
    def fingerprint(licence: str) -> str:
        recipe = load_recipe("demo").model_copy(
            update={"sources": (photos(folder).model_copy(update={"licence": licence}),)}
        )
        return plan.conditions(recipe, plan.images(recipe, home).key).fingerprint

    before = fingerprint("CC0")
    touch(folder / "images/1.png")
    assert fingerprint("CC0") == before
    assert fingerprint("CC-BY-4.0") != before


def test_hashes_equal_those_recorded_earlier(tmp_path: Path, home: Store):
    """Existing datasets are found by these hashes: the values must never change."""
    table = "idx orig_idx orig_file\n0 1 000001.jpg\n2 1 170000.jpg\n10 1 162771.jpg\n"
    write(
        tmp_path,
        {
            **{"folder/images/a.png": "a", "folder/images/deep/b.JPG": "b", "folder/images/j.doe.Smith.png": "j"},
            **{"folder/masks/a.png": "m", "folder/masks/deep/b.PNG": "n", "folder/texts/a.txt": "one"},
            "folder/captions.jsonl": jsonl({"a.png": ["one", "two  words"], "b": ["three"]}),
            **{"folder/lists/test.txt": "a\n", "folder/lists/train.txt": "deep/b.JPG\nj.doe.Smith\n"},
            **{f"celeba/CelebA-HQ-img/{i}.jpg": f"{i}" for i in (0, 10, 2)},
            "celeba/CelebAMask-HQ-mask-anno/0/00000_skin.png": "s",
            "celeba/CelebAMask-HQ-mask-anno/0/00000_hair.png": "h",
            "celeba/CelebAMask-HQ-mask-anno/0/00010_nose.png": "x",
            **{"celeba/celeba-caption/2.txt": "two", "celeba/CelebA-HQ-to-CelebA-mapping.txt": table},
            **{"ffhq/00000/00001.png": "1", "ffhq/01000/01003.png": "3", "numbers/01003.png": "m"},
            **{"authors/images/a.png": "a", "authors/masks/a.png": "m", "authors/captions/a.txt": "x"},
        },
    )
    folder = tmp_path / "folder"
    sources = [
        photos(folder),
        Collection(name="texts", images=f"{folder}/images", captions=f"{folder}/texts"),
        Collection(name="celeba", layout="celebamask-hq", images=f"{tmp_path}/celeba"),
        Collection(name="ffhq", layout="ffhq", images=f"{tmp_path}/ffhq", masks=f"{tmp_path}/numbers"),
        Collection(name="authors", layout="authors", images=f"{tmp_path}/authors"),
    ]
    assert [identify([one], home)[0]["content"] for one in sources] == [
        "d71c87b31deb6041",
        "83a0014d16200c70",
        "28abbdb81a12336f",
        "ab49faceb9657f1d",
        "61d894a54198c646",
    ]


def test_hashes_of_empty_captions_and_several_lines_equal_those_recorded_earlier(tmp_path: Path, home: Store):
    write(tmp_path, {f"images/{name}.png": name for name in "abc"})
    lines = [("a.png", ["one", ""]), ("b.png", []), ("a.png", []), ("a.png", " two  words"), ("c.png", ["", "x\ny"])]
    text = "\n".join(json.dumps({"file": name, "captions": captions}) for name, captions in lines)
    write(tmp_path, {"captions.jsonl": text})
    collection = Collection(name="photos", images=f"{tmp_path}/images", captions=f"{tmp_path}/captions.jsonl")
    assert identify([collection], home)[0]["content"] == "e10e631b439857a6"
