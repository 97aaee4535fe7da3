"""What a collection is named by: the content of its files, known without reading them again and again.

A dataset is named by what went in (§6), so the name must follow the bytes: a file that was touched, copied or moved
with its folder is the same picture, and everything made from it stays valid. Names of files, sizes and times do not
say that, and hashing every file whenever someone asks "is there anything to do?" would read the whole collection. So:

- a local file is hashed once. ``cache/digests/`` below the home remembers its SHA-256 with the size and modification
  time that it had; as long as both stand, the digest does. After ``touch`` one file is hashed again and the name stays.
- on S3 the ETag is the digest: it follows the bytes there (uploads in parts of another size look changed).

What belongs to the name besides: path below the collection's root, split from a list, captions. Not the root itself.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mmface.config import Collection, fingerprint
from mmface.data.sources.files import Listing, SourceFile
from mmface.data.sources.layouts import LAYOUTS, list_collections
from mmface.store import Entry, Store

log = logging.getLogger(__name__)
UNREADABLE = ""
READERS = 8


def identify(
    sources: Sequence[Collection], home: Store, listings: Sequence[Listing] | None = None
) -> list[dict[str, Any]]:
    """Name, licence, layout and a digest of the content of every collection, for the identity of ``images``.

    Args:
        home: where digests of local files are remembered.
        listings: of the collections, for callers who use what they name; listed anew by default.
    """
    return [
        {
            "name": collection.name,
            "licence": collection.licence,
            "layout": collection.layout,
            "content": _content(collection, listing, home),
        }
        for collection, listing in zip(sources, listings or list_collections(sources), strict=True)
    ]


def _content(collection: Collection, listing: Listing, home: Store) -> str:
    places = LAYOUTS[collection.layout].places(collection)
    images = _digests(places.images, (file.image for file in listing.files), home)
    masks = _digests(places.masks, (mask for file in listing.files for mask in file.masks), home)
    texts = (file.captions for file in listing.files if isinstance(file.captions, Entry))
    captions = _digests(places.captions, texts, home)
    content = hashlib.sha256()
    for file in listing.files:
        content.update(json.dumps(_line(file, images, masks, captions)).encode())
    return content.hexdigest()[:16]


def _line(file: SourceFile, images: dict[str, str], masks: dict[str, str], captions: dict[str, str]) -> list[Any]:
    said: str | None
    if isinstance(file.captions, Entry):
        said = captions[file.captions.key]
    else:  # hashed as one text: existing fingerprints were computed so
        said = None if file.captions is None else "\n".join(file.captions)
    parts = [[mask.key, masks[mask.key]] for mask in file.masks]
    return [file.image.key, file.row, images[file.image.key], parts, said, file.split]


def _digests(place: Store | None, entries: Iterable[Entry], home: Store) -> dict[str, str]:
    """Digests by key; whatever ``cache/digests`` does not know at this size and time is read."""
    if place is None:
        return {}
    wanted = {entry.key: entry for entry in entries}
    if place.local_path is None:
        return {key: entry.version for key, entry in wanted.items()}
    cache = f"cache/digests/{fingerprint(place.uri)}.json"
    known: dict[str, list[str]] = json.loads(home.read(cache)) if home.exists(cache) else {}
    # Digests of failures are not remembered: a permission may be mended without touching the file.
    fresh = [entry for entry in wanted.values() if entry.version and not _remembered(known, entry)]
    if fresh:
        log.info("reading %d new or touched files in %s to know them by their content", len(fresh), place.uri)
        with ThreadPoolExecutor(READERS) as pool:
            for entry, digest in zip(fresh, pool.map(lambda entry: _sha256(place, entry), fresh), strict=True):
                if digest:
                    known[entry.key] = [entry.version, digest]
        home.write(cache, json.dumps(known).encode())
    return {key: _remembered(known, entry) for key, entry in wanted.items()}


def _remembered(known: dict[str, list[str]], entry: Entry) -> str:
    version, digest = known.get(entry.key, [UNREADABLE, UNREADABLE])
    return digest if version == entry.version else UNREADABLE


def _sha256(place: Store, entry: Entry) -> str:
    assert place.local_path is not None
    try:
        with (place.local_path / entry.key).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:  # the row is set aside with the reason when the stage reads it
        return UNREADABLE
