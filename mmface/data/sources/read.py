"""Reads one listed photograph with its sidecars; raises InputError for anything wrong with its files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mmface.config import Collection
from mmface.data.sources.celebamask import merge_parts, part_name
from mmface.data.sources.files import Places, SourceFile
from mmface.data.sources.names import is_unicode
from mmface.data.sources.parquet import ParquetReader
from mmface.errors import DatasetError, InputError, ServiceError, shown
from mmface.imaging.decode import decode
from mmface.imaging.labels import mask_to_png
from mmface.store import Entry, Store
from mmface.store.text_files import read_text

# Uncompressed 16-bit RGBA plus room for a header: no image file of that many pixels is larger.
BYTES_PER_PIXEL = 8
HEADER = 1 << 20
Field = Literal["image", "mask", "captions"]


class Reader:
    """Reads the photographs of one collection."""

    def __init__(self, collection: Collection, places: Places, max_megapixels: float) -> None:
        self.collection = collection
        self.places = places
        self.max_megapixels = max_megapixels
        self.parquet = ParquetReader(places.images) if collection.layout == "parquet" else None

    def uri(self, file: SourceFile) -> str:
        """The URI of the photograph, unprintable characters escaped; for Parquet with ``#`` and the row number."""
        return shown(f"{self.places.images.uri}/{file.image.key}") + ("" if file.row is None else f"#{file.row}")

    def image(self, file: SourceFile) -> bytes:
        """The bytes of the image file. Raises InputError for a file name that is not UTF-8: no list could name it."""
        if not is_unicode(file.image.key):
            raise InputError("its file name is not UTF-8; rename the file", field="image")
        if self.parquet and file.row is not None:
            return self.parquet.read(file.image, file.row).image
        return self._bytes(self.places.images, file.image, "image")

    def mask(self, file: SourceFile, size: tuple[int, int]) -> bytes | None:
        """The bytes of the label mask, or None; part masks are merged into one PNG of ``size`` (width, height)."""
        if self.parquet and file.row is not None:
            return self.parquet.read(file.image, file.row).mask
        place = self.places.masks
        if place is None or not file.masks:
            return None
        if self.collection.layout != "celebamask-hq":
            return self._bytes(place, file.masks[0], "mask")
        parts = {
            part_name(entry.key): decode(self._bytes(place, entry, "mask"), self.max_megapixels, field="mask")
            for entry in file.masks
        }
        return mask_to_png(merge_parts(parts, size))

    def captions(self, file: SourceFile) -> list[str] | None:
        """The supplied captions, or None without any. Raises InputError for text that cannot be stored as UTF-8."""
        given: Sequence[str]
        if self.parquet and file.row is not None:
            given = self.parquet.read(file.image, file.row).captions
        elif isinstance(file.captions, Entry):
            assert self.places.captions is not None
            data = self._bytes(self.places.captions, file.captions, "captions")
            given = read_text(data, field="captions", name=shown(file.captions.key)).splitlines()
        else:
            given = file.captions or ()
        if not all(map(is_unicode, given)):
            raise InputError("a caption holds half of a surrogate pair; write the whole character", field="captions")
        return [caption for caption in map(str.strip, given) if caption] or None

    def _bytes(self, place: Store, entry: Entry, field: Field) -> bytes:
        if not entry.version:
            raise InputError("a broken link, or not a regular file", field=field)
        limit = int(self.max_megapixels * 1e6 * BYTES_PER_PIXEL) + HEADER
        if entry.size > limit:
            message = f"{entry.size:,} bytes; an image of {self.max_megapixels:g} megapixels has at most {limit:,}"
            raise InputError(message, field=field)
        try:
            return place.read(entry.key)
        except DatasetError as error:
            raise InputError(f"removed since it was listed: {error.message}", field=field) from None
        except (OSError, ServiceError) as error:
            if place.local_path is None:
                raise  # S3 failed: not a fault of this row
            raise InputError(f"cannot be read: {error}", field=field) from None
