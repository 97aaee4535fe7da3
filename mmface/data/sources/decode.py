"""Bytes of a picture file to an upright sRGB picture, or the reason why not."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from mmface.errors import InputError

MODES = ("RGB", "RGBA", "L", "LA", "P", "CMYK", "1", "I;16")


def open_image(data: bytes, max_megapixels: float = 40.0, *, field: str = "image") -> Image.Image:
    """Decodes a picture to upright sRGB: what the bytes hold counts, not what the file is called.

    Transparent parts become white, CMYK goes through its colour profile, and of 16 bits the high eight are kept, as
    Pillow does for colour. Of a photograph with further frames inside (a phone's depth map) the photograph is read.

    Args:
        data: bytes of a jpg, png or webp file.
        max_megapixels: refused above this, from the header alone, before any pixel is decoded.

    Raises:
        InputError: not a picture, truncated, too large, animated, or a colour mode without a meaning in sRGB.
    """
    image = decode(data, max_megapixels, field=field)
    try:
        return _to_srgb(image, image.info.get("icc_profile"), field)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be decoded: {error}", field=field) from None


def decode(data: bytes, max_megapixels: float = 40.0, *, field: str = "image") -> Image.Image:
    """The upright pixels of a picture in the file's own mode; arguments and errors as :func:`open_image`."""
    if not data:
        raise InputError("the file is empty", field=field)
    try:
        image = Image.open(BytesIO(data), formats=("JPEG", "PNG", "WEBP"))
        _check(image, max_megapixels, field)
        image.load()
        return ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise InputError("not a jpg, png or webp picture", field=field) from None
    except Image.DecompressionBombError:
        raise InputError(f"far over {max_megapixels:g} megapixels, scale it down", field=field) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InputError(f"cannot be decoded: {error}", field=field) from None


def _check(image: Image.Image, max_megapixels: float, field: str) -> None:
    megapixels = image.width * image.height / 1e6
    if megapixels > max_megapixels:
        raise InputError(f"{megapixels:.0f} megapixels; at most {max_megapixels:g}, scale it down", field=field)
    if image.mode not in MODES:
        raise InputError(f"mode {image.mode} is not supported; save it as 8-bit RGB or grey", field=field)
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format in ("PNG", "WEBP"):
        raise InputError(f"an animation of {frames} frames; save the one that counts", field=field)


def _to_srgb(image: Image.Image, profile: bytes | None, field: str) -> Image.Image:
    if image.mode == "I;16":
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "P") or "transparency" in image.info:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image).convert("RGB")
    if profile and image.mode in ("RGB", "CMYK"):
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB") or image
        except (ImageCms.PyCMSError, OSError) as error:
            raise InputError(f"its colour profile is damaged: {error}", field=field) from None
    return image.convert("RGB")
