"""The ``images`` stage: turns listed photographs into rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import imagehash
import pyarrow as pa

from mmface.config import Collection, Data
from mmface.data.sources.files import SourceFile
from mmface.data.sources.layouts import reader_of
from mmface.datasets.records import IMAGES
from mmface.datasets.stage import Result, Row, map_rows
from mmface.errors import InputError
from mmface.imaging.decode import open_noted


class Images:
    """Source files to rows of :data:`IMAGES`: reads each once, decodes it fully, hashes it and assigns its split."""

    name = "images"
    schema: pa.Schema = IMAGES
    reads: tuple[str, ...] = ()  # its input is the listing, not columns of a dataset

    def __init__(self, sources: Sequence[Collection], data: Data) -> None:
        self.readers = {collection.name: reader_of(collection, data.max_megapixels) for collection in sources}
        self.data = data

    def __call__(self, rows: Sequence[Row]) -> Result:
        """Reads the rows made by :meth:`row`; sets each id to the SHA-256 of the file's bytes."""
        return map_rows(self.name, rows, self._read)

    def row(self, file: SourceFile) -> Row:
        """The input row of a listed file."""
        return {"file": file, "uri": self.readers[file.source].uri(file)}

    def _read(self, row: Row) -> Row:
        file: SourceFile = row["file"]
        reader = self.readers[file.source]
        data = reader.image(file)
        row["id"] = hashlib.sha256(data).hexdigest()
        image, note = open_noted(data, self.data.max_megapixels)
        if min(image.size) < self.data.min_size:
            raise InputError(f"{image.width}x{image.height} is below data.min_size {self.data.min_size}", field="image")
        return {
            "id": row["id"],
            "uri": row["uri"],
            "source": file.source,
            "split": file.split or split_of(row["id"], self.data.holdout),
            "listed": file.split is not None,
            "width": image.width,
            "height": image.height,
            "perceptual_hash": str(imagehash.phash(image)),
            "image": data,
            "mask": reader.mask(file, image.size),
            "captions": reader.captions(file),
            "note": note,
        }


def split_of(row_id: str, holdout: float) -> str:
    """Returns "test" for a share ``holdout`` of ids; depends only on the id, so rows keep their split."""
    return "test" if int(row_id[:8], 16) < holdout * 2**32 else "train"
