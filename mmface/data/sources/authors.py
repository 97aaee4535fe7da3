"""The layout of the images that the authors of MMFace-DiT release: ``images/ masks/ captions/`` (and ``sketches/``).

Each image has one text file with ten captions, one per line. Sketches are not read: ``conditions`` draws its own, with
the same U²-Net as for every other collection.
"""

from __future__ import annotations

from mmface.config import Collection
from mmface.data.sources import image_folder
from mmface.data.sources.files import Places
from mmface.store import Store


def places(collection: Collection) -> Places:
    """The folders below the root of the collection."""
    root = Store(collection.images)
    return Places(images=root.child("images"), masks=root.child("masks"), captions=root.child("captions"))


listing = image_folder.listing
