"""Flickr-Faces-HQ: ``00000/00000.png`` … ``69000/69999.png``, a thousand photographs per folder.

``images`` is the folder that holds those folders, or the data set's root with ``images1024x1024`` inside. Thumbnails
and uncropped photographs are ignored. If ``ffhq-dataset-v2.json`` is there, the manifest counts photographs by the
licence that the file states for each.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from mmface.config import Collection
from mmface.data.sources import image_folder
from mmface.data.sources.files import Listing, Places
from mmface.data.sources.names import stem
from mmface.errors import InputError
from mmface.store.text_files import read_text

METADATA = "ffhq-dataset-v2.json"
PICTURE = re.compile(r"(?:images1024x1024/)?(\d{2})000/\1\d{3}\.(?:png|jpg|jpeg|webp)", re.IGNORECASE)

places = image_folder.places


def listing(collection: Collection, places: Places) -> Listing:
    """Lists the numbered photographs; masks and captions match by number, in folders of a thousand or in one."""
    found = image_folder.listing(collection, places, keep=lambda key: bool(PICTURE.fullmatch(key)), by_name=True)
    if not places.images.exists(METADATA):
        return found
    numbers = {int(stem(file.image.key).rsplit("/", 1)[-1]) for file in found.files}
    text = read_text(places.images.read(METADATA), field="images", name=f"{places.images.uri}/{METADATA}")
    try:
        licences = Counter(
            str(entry["metadata"]["license"]) for number, entry in _entries(text) if int(number) in numbers
        )
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{METADATA} has an entry without metadata.license; download it again or remove it", field="images"
        ) from None
    return replace(found, licences=dict(sorted(licences.items())))


def _entries(text: str) -> Iterator[tuple[str, Any]]:
    """Yields the entries of one large JSON object one by one: the real file has 70,000 of four kilobytes each."""
    decoder = json.JSONDecoder()
    between = re.compile(r"\s*[{,]?\s*")
    at = 0
    try:
        while (at := between.match(text, at).end()) < len(text) and text[at] != "}":  # type: ignore[union-attr]
            number, at = decoder.raw_decode(text, at)
            at = re.compile(r"\s*:\s*").match(text, at).end()  # type: ignore[union-attr]
            entry, at = decoder.raw_decode(text, at)
            yield number, entry
    except (json.JSONDecodeError, AttributeError):
        raise InputError(
            f"{METADATA} is damaged at character {at}; download it again or remove it", field="images"
        ) from None
