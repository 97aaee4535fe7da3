"""Source photographs: listing a folder or S3 prefix, and reading a file into a row of the ``images`` dataset.

Sidecars are optional: ``masks/<stem>.png`` (label-index or palette) and ``captions.jsonl`` with one
``{"file": name, "captions": [...]}`` a line. Sources are only ever read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath

import imagehash
import pyarrow as pa
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from mmface.config import Data, Source
from mmface.data.records import IMAGES
from mmface.data.stage import Result, Row, map_rows
from mmface.errors import InputError
from mmface.storage import Store

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MODES = ("RGB", "RGBA", "L", "LA", "P", "CMYK", "1")


@dataclass(frozen=True)
class SourceFile:
    """One photograph and its sidecars; ``version`` identifies the content."""

    key: str
    version: str
    mask_key: str | None
    captions: tuple[str, ...] | None


@dataclass(frozen=True)
class Collection:
    """A listed source: where it is and what is in it."""

    images: str
    masks: str | None
    files: tuple[SourceFile, ...]

    @property
    def identity(self) -> str:
        """Changes exactly when a photograph, a mask or a caption does."""
        text = json.dumps([[file.key, file.version, file.captions] for file in self.files])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def list_collection(source: Source) -> Collection:
    """Lists the photographs of ``source.images`` with their sidecars, sorted by path.

    Raises:
        InputError: no such folder, or no photograph in it.
    """
    assert source.images is not None
    images = Store(source.images)
    _require_folder(images, "source.images")
    masks = Store(source.masks) if source.masks else None
    if masks:
        _require_folder(masks, "source.masks")
    mask_keys = {_stem(entry.key): entry for entry in masks.list()} if masks else {}
    captions = _read_captions(source.captions) if source.captions else {}
    files = []
    for entry in images.list():
        if not entry.key.lower().endswith(SUFFIXES):
            continue
        mask = mask_keys.get(_stem(entry.key))
        version = entry.version or hashlib.sha256(images.read(entry.key)).hexdigest()
        if mask and masks:
            version += mask.version or hashlib.sha256(masks.read(mask.key)).hexdigest()
        files.append(SourceFile(entry.key, version, mask.key if mask else None, captions.get(_name(entry.key))))
    if not files:
        raise InputError(f"no {', '.join(SUFFIXES)} file below {source.images}", field="source.images")
    return Collection(source.images, source.masks, tuple(files))


def open_image(data: bytes, max_megapixels: float = 40.0, *, field: str = "image") -> Image.Image:
    """Decodes a picture to upright sRGB.

    Args:
        data: bytes of a jpg, png or webp file.
        max_megapixels: refused above this, from the header alone, before any pixel is decoded.

    Raises:
        InputError: not a picture, truncated, too large, or a colour mode without a meaning in sRGB.
    """
    if not data:
        raise InputError("the file is empty", field=field)
    try:
        image = Image.open(BytesIO(data), formats=("JPEG", "PNG", "WEBP"))
        megapixels = image.width * image.height / 1e6
        if megapixels > max_megapixels:
            raise InputError(f"{megapixels:.0f} megapixels; at most {max_megapixels:g}, scale it down", field=field)
        if image.mode not in MODES:
            raise InputError(f"mode {image.mode} is not supported; save it as 8-bit RGB or grey", field=field)
        image.load()
        profile = image.info.get("icc_profile")
        return _to_srgb(ImageOps.exif_transpose(image), profile)
    except UnidentifiedImageError:
        raise InputError("not a jpg, png or webp picture", field=field) from None
    except Image.DecompressionBombError:
        raise InputError(f"far over {max_megapixels:g} megapixels, scale it down", field=field) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InputError(f"cannot be decoded: {error}", field=field) from None


class Images:
    """The ``images`` stage: source files to rows."""

    name = "images"
    schema: pa.Schema = IMAGES
    reads: tuple[str, ...] = ()  # everything that the listing says of a file

    def __init__(self, source: Source, data: Data) -> None:
        assert source.images is not None
        self.source_uri = source.images
        self.images = Store(source.images)
        self.masks = Store(source.masks) if source.masks else None
        self.data = data

    def __call__(self, rows: Sequence[Row]) -> Result:
        """Rows {key, mask_key, captions} to rows of :data:`IMAGES`."""
        return map_rows(self.name, [{**row, "uri": f"{self.source_uri}/{row['key']}"} for row in rows], self._read)

    def _read(self, row: Row) -> Row:
        data = self.images.read(row["key"])
        row["id"] = hashlib.sha256(data).hexdigest()
        image = open_image(data, self.data.max_megapixels)
        if min(image.size) < self.data.min_size:
            raise InputError(f"{image.width}x{image.height} is below data.min_size {self.data.min_size}", field="image")
        mask = self.masks.read(row["mask_key"]) if self.masks and row["mask_key"] else None
        return {
            "id": row["id"],
            "uri": row["uri"],
            "source": self.source_uri,
            "split": split_of(row["id"], self.data.holdout),
            "width": image.width,
            "height": image.height,
            "perceptual_hash": str(imagehash.phash(image)),
            "image": data,
            "mask": mask,
            "captions": row["captions"],
        }


def split_of(row_id: str, holdout: float) -> str:
    """ "test" for a share ``holdout`` of all ids; depends on the id alone, so a growing collection never reshuffles."""
    return "test" if int(row_id[:8], 16) < holdout * 2**32 else "train"


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if image.mode in ("RGBA", "LA", "P"):
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image).convert("RGB")
    if profile and image.mode in ("RGB", "CMYK"):
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB") or image
        except ImageCms.PyCMSError as error:
            raise InputError(f"its colour profile is damaged: {error}", field="image") from None
    return image.convert("RGB")


def _require_folder(store: Store, field: str) -> None:
    if store.local_path is not None and not store.local_path.is_dir():
        raise InputError(f"no folder {store.uri}", field=field)


def _read_captions(uri: str) -> dict[str, tuple[str, ...]]:
    folder, _, name = uri.rpartition("/")
    text = Store(folder or ".").read(name).decode("utf-8")
    captions: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        try:
            record = json.loads(line)
            captions[record["file"]] = tuple(str(caption) for caption in record["captions"])
        except (json.JSONDecodeError, KeyError, TypeError):
            remedy = 'each line must be {"file": name, "captions": [...]}'
            raise InputError(f"{uri} line {number}: {remedy}", field="source.captions") from None
    return captions


def _stem(key: str) -> str:
    return PurePosixPath(key).with_suffix("").as_posix()


def _name(key: str) -> str:
    return PurePosixPath(key).name
