"""A plain folder: photographs at any depth; masks, caption files and list entries match them by name."""

from __future__ import annotations

from collections.abc import Callable

from mmface.config import Collection
from mmface.data.sources.files import Listing, Places, SourceFile, sift
from mmface.data.sources.names import is_lines, is_picture, names_of, stem
from mmface.data.sources.sidecars import captions_by_name, masks_by_stem, split_lists
from mmface.store import Store

Keep = Callable[[str], bool]


def places(collection: Collection) -> Places:
    """The folders that the recipe names; captions in one ``.jsonl`` file are read while listing."""
    captions = collection.captions
    return Places(
        images=Store(collection.images),
        masks=Store(collection.masks) if collection.masks else None,
        captions=Store(captions) if captions and not is_lines(captions) else None,
    )


def listing(collection: Collection, places: Places, *, keep: Keep = is_picture, by_name: bool = False) -> Listing:
    """Lists the photographs, sorted by key, each with its sidecars.

    Args:
        keep: whether a key is a photograph.
        by_name: masks match by file name instead of by path below the folder.
    """
    pictures, ignored = sift(places.images.list(follow_links=True), keep)
    masks = masks_by_stem(collection.masks, places.masks)
    captions = captions_by_name(collection.captions, places.captions)
    splits = split_lists(collection.split)
    files = []
    for entry in pictures:
        key, names = entry.key, names_of(entry.key)
        # Masks match by whole path: in other folders the same file name is another photograph.
        mask = masks.take(key, names if by_name else (stem(key),))
        files.append(
            SourceFile(
                source=collection.name,
                image=entry,
                masks=(mask,) if mask else (),
                captions=captions.take(key, names),
                split=splits.take(key, names),
            )
        )
    return Listing(tuple(files), ignored_suffixes=ignored, matches=(*masks.match(), *captions.match(), *splits.match()))
