"""Hashes the content of collections for the fingerprint of ``images``, without reading unchanged files again.

A fingerprint depends on the content of the inputs (§6): after a file is touched, copied or moved with its folder, every
dataset made from it stays valid. File names, sizes and times cannot show this, and hashing every file in each run would
read the whole collection. Therefore:

- A local file is hashed once. ``cache/digests/`` below the home stores its SHA-256 with the file's size and
  modification time; the digest is valid while both are unchanged. After ``touch`` the file is hashed again, and the
  fingerprint stays the same.
- On S3 the ETag is the digest: it follows the content (a multipart upload with another part size looks like a change).

The hash also covers each path below the collection's root, the split from a list, and captions; not the root itself.
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
    """Name, licence, layout and content hash of every collection, for the identity of ``images``.

    Args:
        home: the store that keeps the digests of local files.
        listings: of the collections, where the caller has them; otherwise the collections are listed here.
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
    caption_text: str | None
    if isinstance(file.captions, Entry):
        caption_text = captions[file.captions.key]
    else:  # hashed as one text, like in the fingerprints of existing datasets
        caption_text = None if file.captions is None else "\n".join(file.captions)
    parts = [[mask.key, masks[mask.key]] for mask in file.masks]
    return [file.image.key, file.row, images[file.image.key], parts, caption_text, file.split]


def _digests(place: Store | None, entries: Iterable[Entry], home: Store) -> dict[str, str]:
    """Digests by key; reads the files that ``cache/digests`` does not have with their size and modification time."""
    if place is None:
        return {}
    wanted = {entry.key: entry for entry in entries}
    if place.local_path is None:
        return {key: entry.version for key, entry in wanted.items()}
    cache = f"cache/digests/{fingerprint(place.uri)}.json"
    known: dict[str, list[str]] = json.loads(home.read(cache)) if home.exists(cache) else {}
    # Failures are not cached: permissions can be fixed without touching the file.
    fresh = [entry for entry in wanted.values() if entry.version and not _cached(known, entry)]
    if fresh:
        log.info("hashing %d new or changed files in %s", len(fresh), place.uri)
        with ThreadPoolExecutor(READERS) as pool:
            for entry, digest in zip(fresh, pool.map(lambda entry: _sha256(place, entry), fresh), strict=True):
                if digest:
                    known[entry.key] = [entry.version, digest]
        home.write(cache, json.dumps(known).encode())
    return {key: _cached(known, entry) for key, entry in wanted.items()}


def _cached(known: dict[str, list[str]], entry: Entry) -> str:
    version, digest = known.get(entry.key, [UNREADABLE, UNREADABLE])
    return digest if version == entry.version else UNREADABLE


def _sha256(place: Store, entry: Entry) -> str:
    assert place.local_path is not None
    try:
        with (place.local_path / entry.key).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:  # the stage fails to read it too, and puts the row into quarantine with the reason
        return UNREADABLE
