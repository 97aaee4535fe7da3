"""Portraits: deterministic, the same at every size, with all labels and true captions; masks survive their PNG."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmface.data.colour import nearest_word
from mmface.data.portraits import HAIR_COLOURS, Portrait, draw, write_collection
from mmface.errors import InputError
from mmface.imaging.labels import LABELS, PALETTE, mask_from_png, mask_to_png, mask_to_rgb


@pytest.fixture(scope="module")
def hundred() -> list[Portrait]:
    return [draw(seed, 96) for seed in range(100)]


def test_a_seed_always_draws_the_same_portrait() -> None:
    a, b, c = draw(3, 64), draw(3, 64), draw(4, 64)
    assert np.array_equal(a.image, b.image)
    assert np.array_equal(a.mask, b.mask)
    assert (a.captions, a.attributes) == (b.captions, b.attributes)
    assert not np.array_equal(a.image, c.image)


@pytest.mark.parametrize("seed", [0, 5, 11])
def test_another_size_shows_the_same_person(seed: int) -> None:
    small, big = draw(seed, 128), draw(seed, 256)
    shrunk = np.asarray(Image.fromarray(big.image).resize((128, 128), Image.Resampling.BOX), np.float64)
    mse = float(((shrunk - small.image) ** 2).mean())
    assert 10 * np.log10(255**2 / mse) > 26
    assert (big.mask[::2, ::2] == small.mask).mean() > 0.95
    assert small.captions == big.captions


def test_every_label_occurs_among_a_hundred(hundred: list[Portrait]) -> None:
    seen = set(np.unique(np.stack([p.mask for p in hundred])).tolist())
    assert seen == set(range(len(LABELS)))


def test_left_and_right_labels_follow_celebamask() -> None:
    # CelebAMask-HQ names sides from the person: l_eye (4) is to the right of r_eye (5) in the image.
    masks = [draw(seed, 96).mask for seed in range(30)]
    pairs = [("l_eye", "r_eye"), ("l_brow", "r_brow"), ("l_ear", "r_ear")]
    for left, right in pairs:
        xs = [np.concatenate([np.nonzero(m == LABELS.index(name))[1] for m in masks]).mean() for name in (left, right)]
        assert xs[0] > xs[1]


def test_hair_has_the_colour_of_its_word(hundred: list[Portrait]) -> None:
    right = []
    for p in hundred:
        hair = p.image[p.mask == LABELS.index("hair")]
        if p.attributes["hair_colour"] == "none" or not len(hair):
            continue
        right.append(nearest_word(hair.mean(0) / 255, HAIR_COLOURS) == p.attributes["hair_colour"])
    assert len(right) > 80
    assert np.mean(right) >= 0.95


def test_the_ten_captions_are_short_and_true_and_mostly_name_the_hair(hundred: list[Portrait]) -> None:
    for p in hundred:
        assert len(p.captions) == 10
        assert max(len(c.split()) for c in p.captions) <= 28
        colour = p.attributes["hair_colour"]
        word = "bald" if colour == "none" else colour
        assert sum(word in c for c in p.captions) >= 8
        others = set(HAIR_COLOURS) - {colour}
        assert not any(f"{other} hair" in c for c in p.captions for other in others)


def test_attributes_and_mask_agree(hundred: list[Portrait]) -> None:
    things = {"hat": "hat", "glasses": "eye_g", "earrings": "ear_r", "necklace": "neck_l"}
    for p in hundred:
        for word, label in things.items():
            if p.attributes[word] != "none":
                assert (p.mask == LABELS.index(label)).any(), (word, p.attributes)
            elif word in ("hat", "glasses"):
                assert not (p.mask == LABELS.index(label)).any()
        assert (p.mask == LABELS.index("hair")).any() == (p.attributes["hair_length"] != "bald")


def test_a_collection_is_written_to_a_folder(tmp_path: Path) -> None:
    write_collection(tmp_path / "c", 3, 48, seed=20)
    lines = [json.loads(line) for line in (tmp_path / "c" / "captions.jsonl").read_text().splitlines()]
    with (tmp_path / "c" / "attributes.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    for i, (line, row) in enumerate(zip(lines, rows, strict=True)):
        p = draw(20 + i, 48)
        assert line == {"file": row["file"], "captions": list(p.captions)}
        assert {k: v for k, v in row.items() if k != "file"} == p.attributes
        assert np.array_equal(np.asarray(Image.open(tmp_path / "c" / "images" / row["file"])), p.image)
        assert np.array_equal(mask_from_png((tmp_path / "c" / "masks" / row["file"]).read_bytes()), p.mask)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"n": 0}, "n"),
        ({"size": 16}, "size"),
        ({"size": 2048}, "size"),
        ({"seed": -1}, "seed"),
        ({"workers": 0}, "workers"),
    ],
)
def test_errors_for_bad_numbers_name_their_field(tmp_path: Path, arguments: dict[str, int], field: str) -> None:
    with pytest.raises(InputError) as error:
        write_collection(tmp_path / "c", **({"n": 2, "size": 64} | arguments))
    assert error.value.field == field
    assert not (tmp_path / "c").exists()


def test_a_folder_that_is_not_empty_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="not an empty folder"):
        write_collection(tmp_path, 1, 32)


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def test_masks_round_trip_as_palette_grey_and_rgb() -> None:
    mask = np.random.default_rng(0).integers(0, 19, (20, 30)).astype(np.uint8)
    assert np.array_equal(mask_from_png(mask_to_png(mask)), mask)
    assert np.array_equal(mask_from_png(_png(Image.fromarray(mask))), mask)
    assert np.array_equal(mask_from_png(_png(Image.fromarray(mask_to_rgb(mask)))), mask)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(mask_to_png(mask))).convert("RGB")), PALETTE[mask])


def test_a_reordered_palette_is_read_by_colour() -> None:
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8))
    image.putpalette([*PALETTE[13].tolist(), *PALETTE[1].tolist()])
    assert mask_from_png(_png(image)).tolist() == [[13, 1], [1, 13]]


@pytest.mark.parametrize(
    "data",
    [
        b"not an image",
        _png(Image.new("RGB", (8, 8), (1, 2, 3))),
        _png(Image.new("L", (8, 8), 19)),
        _png(Image.new("RGBA", (8, 8))),
        _png(Image.new("1", (8, 8))),
        _png(Image.new("L", (64, 64), 3))[:60],
    ],
)
def test_a_bad_mask_is_refused_with_a_remedy(data: bytes) -> None:
    with pytest.raises(InputError, match="CelebAMask-HQ palette") as error:
        mask_from_png(data)
    assert error.value.field == "mask"
