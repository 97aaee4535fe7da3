"""Decoding: what every kind of file becomes, and why the bad ones are refused."""

from __future__ import annotations

import numpy as np
import pytest
from made import encoded, picture
from PIL import Image, ImageCms

from mmface.data.sources import open_image
from mmface.errors import InputError


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
    with pytest.raises(InputError, match="colour profile"):
        open_image(encoded(image, icc_profile=srgb[:80]))


def test_transparent_becomes_white():
    clear = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    assert open_image(encoded(clear)).getpixel((5, 5)) == (255, 255, 255)
    keyed = Image.new("RGB", (64, 64), (1, 2, 3))
    assert open_image(encoded(keyed, transparency=(1, 2, 3))).getpixel((5, 5)) == (255, 255, 255)


def test_what_a_file_holds_counts_and_not_its_frames_for_other_uses():
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
def test_bad_pictures_say_why(data: bytes, message: str):
    with pytest.raises(InputError, match=message) as caught:
        open_image(data)
    assert caught.value.field == "image"
