"""Source photographs: what is listed, what is refused and why, what a picture becomes."""

from __future__ import annotations

import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms

from mmface.config import Data, Source
from mmface.data.sources import Images, list_collection, open_image, split_of
from mmface.errors import InputError


def picture(size: tuple[int, int] = (80, 64), mode: str = "RGB", seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    sink = BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1"])
def test_every_common_mode_becomes_rgb(mode: str):
    image = open_image(encoded(picture(mode=mode)))
    assert image.mode == "RGB"
    assert image.size == (80, 64)


def test_cmyk_jpeg_and_webp():
    assert open_image(encoded(picture(mode="CMYK"), "JPEG")).mode == "RGB"
    assert open_image(encoded(picture(), "WEBP")).mode == "RGB"


def test_orientation_is_applied():
    image = picture()
    exif = image.getexif()
    exif[0x0112] = 6  # rotate by 90 degrees
    assert open_image(encoded(image, "JPEG", exif=exif)).size == (64, 80)


def test_colour_profile_is_converted():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = picture()
    converted = open_image(encoded(image, icc_profile=lab))
    assert np.abs(np.asarray(converted, int) - np.asarray(image, int)).max() <= 2


def test_transparent_becomes_white():
    clear = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    assert open_image(encoded(clear)).getpixel((5, 5)) == (255, 255, 255)


def bomb() -> bytes:
    return encoded(Image.new("1", (10_000, 5_000)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"these are words, not pixels", "not a jpg"),
        (encoded(picture(), "JPEG")[:300], "cannot be decoded"),
        (encoded(picture(), "PNG")[:-300], "cannot be decoded"),
        (bomb(), "50 megapixels"),
        (encoded(picture(), "GIF"), "not a jpg"),
        (encoded(Image.new("I;16", (64, 64))), "mode"),
    ],
    ids=["empty", "text", "cut jpeg", "cut png", "bomb", "gif", "16 bit"],
)
def test_bad_pictures_say_why(data: bytes, message: str):
    with pytest.raises(InputError, match=message) as caught:
        open_image(data)
    assert caught.value.field == "image"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images/deep").mkdir(parents=True)
    (tmp_path / "masks").mkdir()
    for i, name in enumerate(["a.png", "b.png", "deep/c.png"]):
        (tmp_path / "images" / name).write_bytes(encoded(picture(seed=i)))
    (tmp_path / "images/readme.txt").write_text("not listed")
    (tmp_path / "masks/a.png").write_bytes(encoded(Image.new("L", (80, 64))))
    (tmp_path / "captions.jsonl").write_text(json.dumps({"file": "b.png", "captions": ["one", "two"]}) + "\n")
    return tmp_path


def source(folder) -> Source:
    return Source(images=f"{folder}/images", masks=f"{folder}/masks", captions=f"{folder}/captions.jsonl")


def test_listing_finds_sidecars_and_its_identity_follows_content(folder):
    collection = list_collection(source(folder))
    assert [file.key for file in collection.files] == ["a.png", "b.png", "deep/c.png"]
    assert [file.mask_key for file in collection.files] == ["a.png", None, None]
    assert collection.files[1].captions == ("one", "two")
    assert list_collection(source(folder)).identity == collection.identity
    (folder / "images/b.png").write_bytes(encoded(picture(seed=9)))
    assert list_collection(source(folder)).identity != collection.identity


def test_stage_sets_bad_files_aside(folder):
    (folder / "images/bad.jpg").write_text("words")
    (folder / "images/tiny.png").write_bytes(encoded(picture((10, 10))))
    collection = list_collection(source(folder))
    stage = Images(source(folder), Data())
    result = stage([{"key": f.key, "mask_key": f.mask_key, "captions": f.captions} for f in collection.files])
    assert [row["uri"].rsplit("/", 1)[1] for row in result.rows] == ["a.png", "b.png", "c.png"]
    assert {row["uri"].rsplit("/", 1)[1]: row["error"] for row in result.quarantined} == {
        "bad.jpg": "invalid_input:image",
        "tiny.png": "invalid_input:image",
    }
    assert all(len(row["id"]) == 64 for row in result.quarantined)
    assert result.rows[0]["mask"] is not None
    assert result.rows[1]["captions"] == ("one", "two")


@pytest.mark.parametrize("missing", ["images", "masks"])
def test_missing_folder(folder, missing: str):
    with pytest.raises(InputError, match="no folder") as caught:
        list_collection(source(folder).model_copy(update={missing: f"{folder}/nowhere"}))
    assert caught.value.field == f"source.{missing}"


def test_empty_folder(tmp_path):
    with pytest.raises(InputError, match=r"no \.jpg"):
        list_collection(Source(images=str(tmp_path)))


def test_bad_caption_line(folder):
    (folder / "captions.jsonl").write_text('{"file": "a.png"}\n')
    with pytest.raises(InputError, match="line 1"):
        list_collection(source(folder))


def test_split_is_stable_and_has_its_share():
    import hashlib

    ids = [hashlib.sha256(bytes([i % 256, i // 256])).hexdigest() for i in range(4000)]
    test = {one for one in ids if split_of(one, 0.2) == "test"}
    assert 0.17 < len(test) / len(ids) < 0.23
    assert test >= {one for one in ids if split_of(one, 0.1) == "test"}
