"""Sidecars and photographs without a match are counted and logged, and refused if they are too many."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from mmface import plan
from mmface.config import Collection
from mmface.config.load import load_recipe
from mmface.data.sources.layouts import describe, list_collections, summaries
from mmface.errors import InputError
from mmface.store import Store
from tests.mmface.data.sources.made import encoded, jsonl, listed, picture, write

MASK = encoded(Image.new("L", (80, 64)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, {f"images/{i:02}.png": encoded(picture(seed=i)) for i in range(20)})
    return tmp_path


def photos(root: Path, **keys: str) -> Collection:
    return Collection(name="photos", images=f"{root}/images", **{key: f"{root}/{name}" for key, name in keys.items()})


def test_sidecars_are_counted_in_the_manifest_and_the_log(folder: Path):
    write(folder, {f"masks/{i:02}.png": MASK for i in range(19)})
    write(folder, {"masks/other.png": MASK, "masks/03.jpg": MASK, "masks/._00.png": MASK, "masks/a.bmp": b"x"})
    write(folder, {f"texts/{i:02}.txt": "words" for i in range(20)})
    write(folder, {"texts/a.json": "{}", "texts/b.JSON": "{}", "texts/noted": "x"})
    write(folder, {"lists/test.txt": "00\n01\nother\n", "lists/readme.md": "x"})
    sources = [photos(folder, masks="masks", captions="texts", split="lists")]
    listings = list_collections(sources, 0.6)
    (told,) = json.loads(json.dumps(summaries(sources, listings)))
    assert (told["pictures"], told["ignored_files"], told["ignored_suffixes"]) == (20, 0, {})
    assert told["sidecars"] == {
        "masks": {
            "uri": f"{folder}/masks",
            "matched": 19,
            "unmatched_pictures": 1,
            "unmatched_entries": 1,
            "ignored_suffixes": {".bmp": 1, "hidden": 1, "second of one name": 1},
        },
        "captions": {
            "uri": f"{folder}/texts",
            "matched": 20,
            "unmatched_pictures": 0,
            "unmatched_entries": 0,
            "ignored_suffixes": {".json": 2, "no suffix": 1},
        },
        "split": {
            "uri": f"{folder}/lists",
            "matched": 2,
            "unmatched_pictures": 18,
            "unmatched_entries": 1,
            "ignored_suffixes": {".md": 1},
        },
    }
    assert list(describe(sources, listings)) == [
        "photos: 20 photographs, ignored nothing",
        "photos: masks: 19 of 20 photographs matched, 1 entries without a photograph, "
        "ignored 1 .bmp, 1 hidden, 1 second of one name",
        "photos: captions: 20 of 20 photographs matched, 0 entries without a photograph, ignored 2 .json, 1 no suffix",
        "photos: split: 2 of 20 photographs matched, 1 entries without a photograph, ignored 1 .md",
    ]


@pytest.mark.parametrize(
    ("files", "keys", "message"),
    [
        ({"captions.jsonl": ""}, {"captions": "captions.jsonl"}, "holds no caption"),
        ({"texts/00.cap": "x"}, {"captions": "texts"}, r"no entry in .*/texts .*\(found 1 \.cap\)"),
        ({"masks/00.bmp": "x"}, {"masks": "masks"}, r"no entry in .*/masks .*\(found 1 \.bmp\)"),
        ({"lists/test.txt": ""}, {"split": "lists"}, r"no entry in .*/lists .*\(found nothing\)"),
    ],
)
def test_a_sidecar_that_matches_no_photograph_is_refused(
    folder: Path, files: dict[str, str], keys: dict[str, str], message: str
):
    write(folder, files)
    with pytest.raises(InputError, match=message) as caught:
        listed(photos(folder, **keys))
    assert caught.value.field == f"sources.0.{next(iter(keys))}"


def test_a_layouts_own_folder_may_be_missing_but_not_without_a_match(tmp_path: Path):
    write(tmp_path, {f"images/{i}.png": encoded(picture(seed=i)) for i in range(2)})
    collection = Collection(name="mmface", layout="authors", images=str(tmp_path))
    write(tmp_path, {"captions/.DS_Store": "x"})
    assert listed(collection).matches == ()
    write(tmp_path, {"captions/0.json": "x"})
    with pytest.raises(InputError, match=r"sources\.0\.captions: no entry in .*/captions"):
        listed(collection)


@pytest.mark.parametrize("kind", ["masks", "captions"])
def test_too_few_masks_or_captions_are_refused_with_the_unmatched_names(folder: Path, kind: str):
    found = {"masks": {f"masks/{i:02}.png": MASK for i in range(5, 20)}, "captions": {}}[kind]
    captions = {f"{i:02}.png": ["words"] for i in range(5, 20)} | {f"x{i:02}.png": ["words"] for i in range(12)}
    write(folder, found | {"captions.jsonl": jsonl(captions)} | {f"masks/x{i:02}.png": MASK for i in range(12)})
    collection = photos(folder, **{kind: {"masks": "masks", "captions": "captions.jsonl"}[kind]})
    assert len(list_collections([collection], 0.75)[0].files) == 20
    with pytest.raises(InputError) as caught:
        list_collections([collection], 0.9)
    assert caught.value.field == f"sources.0.{kind}"
    message = caught.value.message
    assert "15 of 20 photographs have an entry" in message
    assert "fewer than data.min_matched 0.9" in message
    assert (
        "photographs without an entry: 00.png, 01.png, 02.png, 03.png, 04.png; entries without a photograph: x00"
        in message
    )
    assert "x09" in message
    assert "x10" not in message


@pytest.mark.parametrize(
    ("lines", "sound"),
    [
        ([f"{i:02}.png" for i in range(3)], True),
        ([f"{i:02}.png" for i in range(300)], True),
        ([f"{i:02}.png" for i in range(10)] + [f"x{i}.png" for i in range(10)], False),
    ],
    ids=["the held-out pictures alone", "a larger collection", "half of the names wrong"],
)
def test_a_list_may_name_fewer_or_more_photographs_than_the_collection(folder: Path, lines: list[str], sound: bool):
    write(folder, {"lists/test.txt": "\n".join(lines)})
    sources = [photos(folder, split="lists")]
    if sound:
        assert list_collections(sources, 0.9)
    else:
        with pytest.raises(
            InputError, match=r"10 of 20 photographs .* 10 of its 20 entries .* entries without a photograph: x0.png"
        ):
            list_collections(sources, 0.9)


def test_min_matched_changes_no_fingerprint(folder: Path, tmp_path: Path):
    def named(least: float) -> tuple[str, ...]:
        recipe = load_recipe("demo", [f"data.min_matched={least}"])
        recipe = recipe.model_copy(update={"sources": (photos(folder),)})
        images = plan.images(recipe, Store(tmp_path / "home"))
        conditions = plan.conditions(recipe, images.key)
        captions = plan.captions(recipe, images.key, conditions.key)
        rest = (plan.latents(recipe, 64, images.key, conditions.key), plan.text(recipe, captions.key))
        return tuple(one.fingerprint for one in (images, conditions, captions, *rest))

    assert named(0.0) == named(0.9)
