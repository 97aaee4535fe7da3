"""A plain folder: pictures at any depth; masks, text files and list entries of the same names."""

from __future__ import annotations

from collections.abc import Callable

from mmface.config import Collection
from mmface.data.sources.files import Listing, Places, SourceFile, is_picture, stem
from mmface.data.sources.sidecars import captions_by_name, lookup, masks_by_stem, read_split, require_match
from mmface.storage import Store

Keep = Callable[[str], bool]


def places(collection: Collection) -> Places:
    """The three folders of the recipe; captions in one ``.jsonl`` file are read when listing."""
    captions = collection.captions
    return Places(
        images=Store(collection.images),
        masks=Store(collection.masks) if collection.masks else None,
        captions=Store(captions) if captions and not captions.endswith(".jsonl") else None,
    )


def listing(collection: Collection, places: Places, *, keep: Keep = is_picture, by_name: bool = False) -> Listing:
    """Lists the pictures, sorted by key, each with its sidecars.

    Args:
        keep: which keys are pictures.
        by_name: masks go by file name instead of by the path below the folder.
    """
    entries = places.images.list()
    pictures = [entry for entry in entries if keep(entry.key)]
    masks = masks_by_stem(places.masks)
    captions = captions_by_name(collection.captions, places.captions)
    splits = read_split(Store(collection.split)) if collection.split else {}
    files = tuple(
        SourceFile(
            source=collection.name,
            image=entry,
            # Path for path: in a tree of folders equal file names are other pictures.
            masks=tuple(
                mask for mask in [(lookup(masks, entry.key) if by_name else masks.get(stem(entry.key)))] if mask
            ),
            captions=lookup(captions, entry.key),
            split=lookup(splits, entry.key),
        )
        for entry in pictures
    )
    if files:
        require_match(masks, (file.masks for file in files), "masks", places.masks.uri if places.masks else "")
        require_match(captions, (file.captions for file in files), "captions", collection.captions or "captions")
        require_match(splits, (file.split for file in files), "split", collection.split or "")
    return Listing(files, ignored=len(entries) - len(files))
