"""CelebAMask-HQ: pictures, a mask file for every part of every face, and the captions made for them.

    CelebA-HQ-img/0.jpg … 29999.jpg
    CelebAMask-HQ-mask-anno/0/00000_hair.png …      folders of 2,000 faces
    celeba-caption/0.txt …                          Multi-Modal-CelebA-HQ; or the recipe's ``captions``
    train.txt val.txt test.txt                      or the recipe's ``split``
    CelebA-HQ-to-CelebA-mapping.txt                 comes with the data set

Without lists the mapping decides: CelebA's official partition goes by its own file numbers (1 … 162770 train,
… 182637 validation, … 202599 test).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmface.config import Collection
from mmface.data.labels import LABELS
from mmface.data.sources.files import Listing, Places, SourceFile, Split
from mmface.data.sources.sidecars import LISTS, captions_by_name, lookup, read_split, require_match
from mmface.errors import InputError
from mmface.storage import Entry, Store

PICTURE = re.compile(r"(\d+)\.(?:jpg|jpeg|png)", re.IGNORECASE)
PART = re.compile(r"(?:.*/)?(\d+)_(\w+)\.png")
MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"
LAST_TRAIN = 162770


def places(collection: Collection) -> Places:
    """Folders below the data set's root; ``captions`` of the recipe wins over the folder below it."""
    root = Store(collection.images)
    captions = collection.captions or f"{root.uri}/celeba-caption"
    return Places(
        images=root.child("CelebA-HQ-img"),
        masks=root.child("CelebAMask-HQ-mask-anno"),
        captions=None if captions.endswith(".jsonl") else Store(captions),
    )


def listing(collection: Collection, places: Places) -> Listing:
    """Lists the pictures in the order of their numbers, each with the files of its parts."""
    assert places.masks is not None
    entries = places.images.list()
    pictures = {int(match[1]): entry for entry in entries if (match := PICTURE.fullmatch(entry.key))}
    parts = _parts(places.masks)
    captions = captions_by_name(collection.captions, places.captions)
    splits = _splits(collection, Store(collection.images))
    files = tuple(
        SourceFile(
            source=collection.name,
            image=entry,
            masks=tuple(parts.get(number, ())),
            captions=lookup(captions, entry.key),
            split=splits.get(number),
        )
        for number, entry in sorted(pictures.items())
    )
    if files:
        require_match(parts, (file.masks for file in files), "images", places.masks.uri)
        require_match(captions, (file.captions for file in files), "captions", collection.captions or "celeba-caption")
        require_match(splits, (file.split for file in files), "split", collection.split or collection.images)
    return Listing(files, ignored=len(entries) - len(files))


def merge_parts(parts: Mapping[str, Image.Image], size: tuple[int, int]) -> NDArray[np.uint8]:
    """One label mask [H, W] of the part masks by name; where parts overlap the later label wins, as in the data
    set's own script.

    Args:
        parts: pictures that are black outside the part, all of one size.
        size: width and height of the photograph, which the merged mask is resized to (nearest).

    Raises:
        InputError: a name that is no label, or parts of different sizes.
    """
    unknown = sorted(set(parts) - set(LABELS[1:]))
    if unknown:
        raise InputError(f"{', '.join(unknown)} is none of the 18 parts: {', '.join(LABELS[1:])}", field="mask")
    sizes = {part.size for part in parts.values()}
    if len(sizes) > 1:
        raise InputError(f"the parts of one face have different sizes: {sorted(sizes)}", field="mask")
    width, height = next(iter(sizes))
    mask = np.zeros((height, width), np.uint8)
    for label, name in enumerate(LABELS):
        if name in parts:
            mask[np.asarray(parts[name].convert("L")) > 0] = label
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def part_name(key: str) -> str:
    """``0/00000_l_eye.png`` → ``l_eye``."""
    match = PART.fullmatch(key)
    assert match is not None
    return match[2]


def _parts(place: Store) -> dict[int, list[Entry]]:
    parts: dict[int, list[Entry]] = {}
    for entry in place.list():
        if match := PART.fullmatch(entry.key):
            parts.setdefault(int(match[1]), []).append(entry)
    return parts


def _splits(collection: Collection, root: Store) -> dict[int, Split]:
    if collection.split or any(root.exists(name) for name in LISTS):
        lists = read_split(Store(collection.split) if collection.split else root)
        return {_number(name): split for name, split in lists.items()}
    return _official(root) if root.exists(MAPPING) else {}


def _number(name: str) -> int:
    digits = name.rsplit("/", 1)[-1].split(".")[0]
    if not digits.isdecimal():
        raise InputError(f"{name!r} is no picture's number (12, 12.jpg)", field="split")
    return int(digits)


def _official(root: Store) -> dict[int, Split]:
    """Lines of ``idx orig_idx orig_file`` after a header; the file's number in CelebA decides."""
    rows: Sequence[list[str]] = [line.split() for line in root.read(MAPPING).decode("utf-8").splitlines()[1:]]
    try:
        return {int(row[0]): "train" if _number(row[2]) <= LAST_TRAIN else "test" for row in rows if row}
    except (ValueError, IndexError):
        raise InputError(f"{MAPPING} is damaged; fetch it again, or remove it", field="images") from None
