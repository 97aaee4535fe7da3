"""Decoding: image files of every kind become RGB, and unusable ones are refused with the reason."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from mmface.data.sources import open_image
from mmface.errors import InputError
from mmface.imaging.decode import open_noted
from mmface.imaging.labels import mask_from_png
from tests.mmface.data.sources.made import encoded, picture


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1"])
def test_every_common_mode_becomes_rgb(mode: str):
    image = open_image(encoded(picture(mode=mode)))
    assert image.mode == "RGB"
    assert image.size == (80, 64)


def test_cmyk_jpeg_and_webp():
    assert open_image(encoded(picture(mode="CMYK"), "JPEG")).mode == "RGB"
    assert open_image(encoded(picture(), "WEBP")).mode == "RGB"


def test_sixteen_bits_keep_their_high_eight():
    grey = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    image = open_image(encoded(Image.fromarray(grey)))
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image)[..., 0], grey >> 8)


def test_orientation_is_applied():
    image = picture()
    exif = image.getexif()
    exif[0x0112] = 6  # rotate by 90 degrees
    assert open_image(encoded(image, "JPEG", exif=exif)).size == (64, 80)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colour_profile_is_converted(mode: str):
    image = Image.new(mode, (64, 64), (200, 40, 40))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    kept = open_image(encoded(image, icc_profile=srgb)).getpixel((5, 5))
    assert np.abs(np.subtract(kept, (200, 40, 40))).max() <= 2
    swapped = srgb.replace(b"rXYZ", b"none", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"none", b"bXYZ", 1)
    turned = open_image(encoded(image, icc_profile=swapped)).getpixel((5, 5))
    assert np.abs(np.subtract(turned, (40, 40, 200))).max() <= 2


LAB, SRGB = (ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes() for name in ("LAB", "sRGB"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    ("mode", "profile", "note"),
    [
        ("RGB", SRGB[:80], "is damaged"),
        ("RGB", b"\1" * 5000, "is damaged"),
        ("RGB", b"x" * (3 << 20), "is damaged"),
        ("RGB", LAB, "is of Lab and the picture is of RGB"),
        ("L", SRGB, "is of RGB and the picture is of GRAY"),
    ],
    ids=["cut", "junk", "large", "lab", "rgb in grey"],
)
def test_with_an_unusable_colour_profile_pixels_are_read_as_srgb_with_a_note(
    kind: str, mode: str, profile: bytes, note: str
):
    image = Image.new(mode, (64, 64), 200 if mode == "L" else (200, 40, 40))
    found, said = open_noted(encoded(image, kind, icc_profile=profile))
    assert np.array_equal(np.asarray(found), np.asarray(open_image(encoded(image, kind))))
    if kind == "WEBP" and mode == "L":
        assert said is None  # WebP has no grey: the profile fits
        return
    assert said is not None
    assert note in said
    assert said.startswith("its colour profile")
    assert said.endswith("its pixels were taken as sRGB")


def test_a_valid_profile_leaves_no_note():
    assert open_noted(encoded(picture(), icc_profile=SRGB))[1] is None
    assert open_noted(encoded(picture()))[1] is None


ODD = {  # EXIF tags with a wrong type or size, next to a valid orientation
    "a rational as bytes": {0x011A: b"72"},
    "a number as text": {0x0100: "wide", 0x0128: "in"},
    "an invalid offset": {0x8825: b"\xff\xff\xff\xff", 0x8769: (4, 0x7FFFFFFF)},
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("odd", ODD)
def test_the_orientation_is_read_despite_invalid_exif_tags(kind: str, odd: str):
    assert open_image(encoded(picture(), kind, exif=tags({0x0112: (3, 6)} | ODD[odd]))).size == (64, 80)


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + b"\xff" * 200])
def test_an_image_with_a_broken_exif_block_is_not_turned(exif: bytes):
    assert open_image(encoded(picture(), "JPEG", exif=exif)).size == (80, 64)


def test_orientation_from_xmp():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><tiff:Orientation>6</tiff:Orientation></x:xmpmeta>'
    assert open_image(encoded(picture(), "JPEG", xmp=xmp)).size == (64, 80)
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp.decode())
    assert open_image(encoded(picture(), pnginfo=info)).size == (64, 80)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    "key", ["workflow", "XML:com.adobe.xmp", "Raw profile type exif", "icc_profile", "transparency"]
)
def test_large_text_chunks_do_not_affect_the_pixels(key: str, zipped: bool):
    info = PngImagePlugin.PngInfo()
    for _ in range(3):
        info.add_text(key, "{}" * (3 << 20), zip=zipped)
        info.add_itxt(key, "{}" * (3 << 20), zip=zipped)
    data = encoded(picture(), pnginfo=info)
    tracemalloc.start()
    found, note = open_noted(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(np.asarray(found), np.asarray(picture()))
    assert note is None
    assert peak < 2 * len(data) + (4 << 20)


def test_masks_are_decoded_like_photographs():
    labels = np.arange(64 * 80, dtype=np.uint8).reshape(64, 80) % 19
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "{}" * (3 << 20), zip=True)
    assert np.array_equal(mask_from_png(encoded(Image.fromarray(labels), pnginfo=info)), labels)
    turned = mask_from_png(encoded(Image.fromarray(labels), exif=tags({0x0112: (3, 6), 0x011A: b"72"})))
    assert np.array_equal(turned, np.rot90(labels, -1))


def tags(values: dict[int, object]) -> bytes:
    """An EXIF block with the given tags: (type, number), bytes or text of up to four bytes, valid or not."""
    entries = []
    for tag, value in sorted(values.items()):
        if isinstance(value, tuple):
            entries.append(struct.pack("<HHII", tag, value[0], 1, value[1]))
        else:
            body = value.encode() if isinstance(value, str) else value
            assert isinstance(body, bytes)
            entries.append(struct.pack("<HHI4s", tag, 2 if isinstance(value, str) else 7, len(body), body[:4]))
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


def test_transparent_becomes_white():
    clear = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    assert open_image(encoded(clear)).getpixel((5, 5)) == (255, 255, 255)
    keyed = Image.new("RGB", (64, 64), (1, 2, 3))
    assert open_image(encoded(keyed, transparency=(1, 2, 3))).getpixel((5, 5)) == (255, 255, 255)


def test_of_a_multi_picture_file_the_photograph_is_read():
    frames = encoded(picture(), "MPO", save_all=True, append_images=[picture(seed=1)])
    assert open_image(frames).size == (80, 64)


def animation(kind: str) -> bytes:
    return encoded(picture(), kind, save_all=True, append_images=[picture(seed=1), picture(seed=2)])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"these are words, not pixels", "not a jpg"),
        (encoded(picture(), "JPEG")[:300], "cannot be decoded"),
        (encoded(picture(), "PNG")[:-300], "cannot be decoded"),
        (encoded(picture(), "WEBP")[:-300], "cannot be decoded|not a jpg"),
        (encoded(Image.new("1", (10_000, 5_000))), "50 megapixels"),
        (encoded(Image.new("1", (20_000, 20_000))), "megapixels"),
        (encoded(picture(), "GIF"), "not a jpg"),
        (encoded(picture(), "TIFF"), "not a jpg"),
        (animation("PNG"), "animation of 3 frames"),
        (animation("WEBP"), "animation of 3 frames"),
    ],
    ids=[
        "empty",
        "text",
        "cut jpeg",
        "cut png",
        "cut webp",
        "large",
        "bomb",
        "gif",
        "tiff",
        "moving png",
        "moving webp",
    ],
)
def test_unusable_images_are_refused_with_the_reason(data: bytes, message: str):
    with pytest.raises(InputError, match=message) as caught:
        open_image(data)
    assert caught.value.field == "image"
