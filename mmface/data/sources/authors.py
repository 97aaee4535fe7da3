"""The layout in which the authors of MMFace-DiT release pictures: ``images/ masks/ captions/`` (and ``sketches/``).

Ten captions are the lines of one text file a picture. Sketches are not read: ``conditions`` draws them anew, from the
same U²-Net that it draws everybody else's with.
"""

from __future__ import annotations

from mmface.config import Collection
from mmface.data.sources import image_folder
from mmface.data.sources.files import Places
from mmface.store import Store


def places(collection: Collection) -> Places:
    """Folders below the root."""
    root = Store(collection.images)
    return Places(images=root.child("images"), masks=root.child("masks"), captions=root.child("captions"))


listing = image_folder.listing
