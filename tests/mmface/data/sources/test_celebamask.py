"""CelebAMask-HQ: parts are merged in label order, captions and splits found, and errors explained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmface.config import Collection
from mmface.config.load import parse_recipe
from mmface.data.sources.celebamask import merge_parts
from mmface.errors import InputError, RecipeError
from mmface.imaging.labels import LABELS, mask_from_png
from tests.mmface.data.sources.made import encoded, listed, picture, read, write


def part(box: tuple[int, int, int, int], side: int = 32) -> Image.Image:
    pixels = np.zeros((side, side, 3), np.uint8)
    left, top, right, bottom = box
    pixels[top:bottom, left:right] = 255
    return Image.fromarray(pixels)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(
        tmp_path,
        {
            **{f"CelebA-HQ-img/{i}.jpg": encoded(picture((64, 64), seed=i), "JPEG") for i in (0, 2, 10, 2001)},
            "CelebAMask-HQ-mask-anno/0/00000_skin.png": encoded(part((0, 0, 32, 16))),
            "CelebAMask-HQ-mask-anno/0/00000_hair.png": encoded(part((0, 0, 16, 8))),
            "CelebAMask-HQ-mask-anno/0/00000_l_eye.png": encoded(part((20, 4, 24, 8))),
            "CelebAMask-HQ-mask-anno/1/02001_cloth.png": encoded(part((0, 16, 32, 32))),
            "celeba-caption/0.txt": "she smiles\nshe has hair\n",
        },
    )
    return tmp_path


def collection(root: Path | str, **keys: str) -> Collection:
    return Collection(name="celeba", layout="celebamask-hq", images=str(root), **keys)


def test_parts_are_merged_at_the_size_of_the_photograph_and_later_labels_win(root: Path):
    rows = read(collection(root)).rows
    assert [row["uri"].rsplit("/", 1)[1] for row in rows] == ["0.jpg", "2.jpg", "10.jpg", "2001.jpg"]
    mask = mask_from_png(rows[0]["mask"])
    assert mask.shape == (64, 64)
    expected = np.zeros((64, 64), np.uint8)
    expected[:32] = LABELS.index("skin")
    expected[:16, :32] = LABELS.index("hair")
    expected[8:16, 40:48] = LABELS.index("l_eye")
    assert np.array_equal(mask, expected)
    assert rows[0]["captions"] == ["she smiles", "she has hair"]
    assert rows[1]["mask"] is None
    assert set(np.unique(mask_from_png(rows[3]["mask"]))) == {0, LABELS.index("cloth")}


def test_every_part_gets_its_label():
    boxes = {name: (label, 0, label + 1, 32) for label, name in enumerate(LABELS) if label}
    mask = merge_parts({name: part(box) for name, box in boxes.items()}, (32, 32))
    assert mask[0, :19].tolist() == list(range(19))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("00002_beard.png", encoded(part((0, 0, 4, 4))), "unknown parts beard; use skin"),
        ("00002_hat.png", encoded(part((0, 0, 4, 4)))[:60], "cannot be decoded"),
        ("00002_hat.png", b"", "empty"),
    ],
)
def test_bad_parts_quarantine_the_row(root: Path, name: str, data: bytes, message: str):
    write(root, {f"CelebAMask-HQ-mask-anno/0/{name}": data})
    result = read(collection(root))
    assert len(result.rows) == 3
    assert [row["error"] for row in result.quarantined] == ["invalid_input:mask"]
    assert message in result.quarantined[0]["message"]


def test_parts_of_different_sizes_are_refused():
    with pytest.raises(InputError, match="different sizes"):
        merge_parts({"skin": part((0, 0, 4, 4)), "hair": part((0, 0, 4, 4), 16)}, (32, 32))


def test_without_lists_the_split_is_that_of_celeba(root: Path):
    rows = [(0, 162770), (2, 162771), (10, 202599)]
    table = "".join(f"{idx:<8}{file - 1:<8}{file:06d}.jpg\n" for idx, file in rows)
    write(root, {"CelebA-HQ-to-CelebA-mapping.txt": "idx     orig_idx  orig_file\n" + table})
    assert [file.split for file in listed(collection(root)).files] == ["train", "test", "test", None]
    write(root, {"train.txt": "2\n10.jpg\n", "test.txt": "CelebA-HQ-img/0.jpg\n"})
    assert [file.split for file in listed(collection(root)).files] == ["test", "train", "train", None]
    write(root, {"lists/val.txt": "00010.jpg\n"})
    assert [file.split for file in listed(collection(root, split=f"{root}/lists")).files] == [None, None, "test", None]
    write(root, {"lists/val.txt": "ten\n"})
    with pytest.raises(InputError, match="is not the number of a photograph"):
        listed(collection(root, split=f"{root}/lists"))


def test_parts_may_have_upper_case_suffixes_and_transparency(root: Path):
    clear = part((0, 16, 32, 32)).convert("RGBA")
    clear.putalpha(clear.convert("L"))
    black = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    black.paste((0, 0, 0, 255), (0, 0, 8, 8))
    opaque = part((0, 0, 32, 4)).convert("RGBA")
    write(
        root,
        {
            "CelebAMask-HQ-mask-anno/0/00002_skin.PNG": encoded(clear),
            "CelebAMask-HQ-mask-anno/0/00002_hair.PNG": encoded(black),
            "CelebAMask-HQ-mask-anno/0/00002_hat.png": encoded(opaque),
            "CelebAMask-HQ-mask-anno/0/00010_skin.png": encoded(part((0, 0, 0, 0))),
        },
    )
    rows = read(collection(root)).rows
    expected = np.zeros((32, 32), np.uint8)
    expected[16:] = LABELS.index("skin")
    expected[:8, :8] = LABELS.index("hair")
    expected[:4] = LABELS.index("hat")
    assert np.array_equal(mask_from_png(rows[1]["mask"])[::2, ::2], expected)
    assert not mask_from_png(rows[2]["mask"]).any()  # a face without a part is all background


def test_every_face_is_kept_and_counted(root: Path):
    write(root, {"CelebA-HQ-img/00002.png": encoded(picture((64, 64), seed=9))})  # a second file with the number 2
    write(root, {"CelebAMask-HQ-mask-anno/0/00007_skin.png": encoded(part((0, 0, 4, 4)))})
    table = "idx orig_idx orig_file\r\n0 0 162770.jpg\r\n2 2 162771.jpg\r\n"
    write(root, {"CelebA-HQ-to-CelebA-mapping.txt": table.encode("utf-8-sig")})
    found = listed(collection(root))
    assert [(file.image.key, file.split) for file in found.files] == [
        ("0.jpg", "train"),
        ("00002.png", "test"),
        ("2.jpg", "test"),
        ("10.jpg", None),
        ("2001.jpg", None),
    ]
    parts, captions, split = (match.summary() for match in found.matches)
    assert (parts["matched"], parts["unmatched_pictures"], parts["unmatched_entries"]) == (2, 3, 1)
    assert (captions["matched"], captions["unmatched_pictures"], captions["unmatched_entries"]) == (1, 4, 0)
    assert (split["matched"], split["unmatched_pictures"], split["unmatched_entries"]) == (3, 2, 0)


def test_a_number_in_train_and_test_lists_is_refused_in_any_spelling(root: Path):
    write(root, {"train.txt": "CelebA-HQ-img\\00010.jpg\n", "test.txt": "10\n"})
    with pytest.raises(InputError, match=r"10 is in train\.txt and in val\.txt or test\.txt"):
        listed(collection(root))
    write(root, {"train.txt": "0.jpg\n2.jpg\n".encode("utf-16"), "test.txt": "10\n"})
    assert [file.split for file in listed(collection(root)).files] == ["train", "train", "test", None]


def test_captions_of_the_recipe_replace_those_of_the_data_set(root: Path):
    write(root, {"mine/2.txt": "mine\n"})
    captions = [row["captions"] for row in read(collection(root, captions=f"{root}/mine")).rows]
    assert captions == [None, ["mine"], None, None]


def test_masks_cannot_be_given_for_a_layout_that_has_its_own():
    tree = {"name": "a", "layout": "celebamask-hq", "images": "x", "masks": "y"}
    with pytest.raises(RecipeError, match="brings its own masks; leave masks out") as caught:
        parse_recipe({"sources": [tree]})
    assert caught.value.field == "sources.0"
