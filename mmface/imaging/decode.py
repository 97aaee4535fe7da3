"""Decodes the bytes of an image file to an upright sRGB image, or raises an error with the reason."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from mmface.errors import InputError
from mmface.imaging.png import SIGNATURE, without_texts

MODES = ("RGB", "RGBA", "L", "LA", "P", "CMYK", "1", "I;16")
PLAIN = (OSError, SyntaxError, ValueError, RuntimeError, ImageCms.PyCMSError)  # clear messages, shown without the type
GREY = ("L", "LA", "1", "I;16")

# What Pillow's parsers and codecs raise on a malformed file: the intended errors (OSError, SyntaxError, ValueError) and
# those that unchecked lengths, types, counts and offsets lead to. Not MemoryError: the file's size is checked, so the
# cause is the machine.
BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, RuntimeError, struct.error, zlib.error, ImageCms.PyCMSError),
    *(TypeError, AttributeError, LookupError, ArithmeticError, AssertionError),
)

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by value of the EXIF tag Orientation


def open_image(data: bytes, max_megapixels: float = 40.0, *, field: str = "image") -> Image.Image:
    """Decodes an image file to upright sRGB. The format is detected from the bytes, not from the file name.

    Transparent pixels become white, CMYK is converted by its colour profile, and of 16-bit channels the high eight bits
    are kept, as Pillow does for colour. If a photograph has further frames (such as a phone's depth map), only the
    photograph is read. Of the metadata only orientation and colour profile are read; damaged ones are ignored.

    Args:
        data: bytes of a jpg, png or webp file.
        max_megapixels: larger images are refused after reading the header, before any pixel is decoded.

    Raises:
        InputError: not an image, truncated, too large, animated, or in an unsupported colour mode.
    """
    return open_noted(data, max_megapixels, field=field)[0]


def open_noted(data: bytes, max_megapixels: float = 40.0, *, field: str = "image") -> tuple[Image.Image, str | None]:
    """The image of :func:`open_image`, and a note if its colour profile was unusable, so that sRGB was assumed."""
    image = decode(data, max_megapixels, field=field)
    try:
        plain = _plain(image)
        if "icc_profile" not in image.info:
            return plain.convert("RGB"), None
        return _from_profile(plain, image.info["icc_profile"], grey=image.mode in GREY)
    except BROKEN as error:
        raise InputError(f"cannot be decoded: {_cause(error)}", field=field) from None


def decode(data: bytes, max_megapixels: float = 40.0, *, field: str = "image") -> Image.Image:
    """The upright image in the file's own colour mode; arguments and errors as in :func:`open_image`."""
    if not data:
        raise InputError("the file is empty", field=field)
    try:
        image = Image.open(BytesIO(without_texts(data)), formats=("JPEG", "PNG", "WEBP"))
        _check(image, max_megapixels, field)
        image.load()
        return _upright(image)
    except UnidentifiedImageError:
        damaged = data.startswith((b"\xff\xd8\xff", SIGNATURE)) or data[8:12] == b"WEBP"
        message = "cannot be decoded: its header is damaged" if damaged else "not a jpg, png or webp image"
        raise InputError(message, field=field) from None
    except Image.DecompressionBombError:
        raise InputError(f"far more than {max_megapixels:g} megapixels; scale it down", field=field) from None
    except BROKEN as error:
        raise InputError(f"cannot be decoded: {_cause(error)}", field=field) from None


def _check(image: Image.Image, max_megapixels: float, field: str) -> None:
    megapixels = image.width * image.height / 1e6
    if megapixels > max_megapixels:
        raise InputError(f"{megapixels:.0f} megapixels; at most {max_megapixels:g}: scale it down", field=field)
    if image.mode not in MODES:
        raise InputError(f"mode {image.mode} is not supported; save it as 8-bit RGB or grey", field=field)
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format in ("PNG", "WEBP"):
        raise InputError(f"an animation of {frames} frames; save one frame as an image", field=field)


def _upright(image: Image.Image) -> Image.Image:
    """The image turned by its EXIF orientation; unchanged if that cannot be read."""
    try:
        turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except BROKEN:
        return image
    return image if turn is None else image.transpose(turn)


def _plain(image: Image.Image) -> Image.Image:
    """The image with 8 bits per channel and without transparency, on white."""
    if image.mode == "I;16":
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "P") or "transparency" in image.info:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image).convert("RGB")
    return image


def _from_profile(image: Image.Image, profile: bytes | None, *, grey: bool) -> tuple[Image.Image, str | None]:
    """The image converted to sRGB, and a note if the file's colour profile was unusable.

    Grey images with a grey profile keep their values.
    """
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile or b""))
        found = str(source.profile.xcolor_space).strip()
        if grey and found == "GRAY":
            return image.convert("RGB"), None
        if found == image.mode:
            srgb = ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(image, source, srgb, outputMode="RGB") or image, None
        reason = f"is of {found} and the picture is of {'GRAY' if grey else image.mode}"
    except BROKEN as error:
        reason = f"is damaged ({_cause(error)})"
    return image.convert("RGB"), f"its colour profile {reason}: its pixels were taken as sRGB"


def _cause(error: Exception) -> str:
    """The message in one line, with the exception's type if the message alone is not clear."""
    text = " ".join(str(error).split())
    return text if isinstance(error, PLAIN) and text else f"{type(error).__name__} {text}"
