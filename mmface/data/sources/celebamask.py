"""CelebAMask-HQ: photographs, one mask file for each part of each face, and captions.

    CelebA-HQ-img/0.jpg … 29999.jpg
    CelebAMask-HQ-mask-anno/0/00000_hair.png …      folders of 2,000 faces
    celeba-caption/0.txt …                          Multi-Modal-CelebA-HQ; or the recipe's ``captions``
    train.txt val.txt test.txt                      or the recipe's ``split``
    CelebA-HQ-to-CelebA-mapping.txt                 comes with the data set

Without lists, the mapping decides train or test by CelebA's official partition: files 1 … 162770 are train,
… 182637 validation, … 202599 test.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmface.config import Collection
from mmface.data.sources.files import Listing, Places, SourceFile, Split, sift
from mmface.data.sources.names import canonical, is_lines, names_of
from mmface.data.sources.sidecars import LISTS, Sidecar, captions_by_name, read_lists, split_lists
from mmface.errors import InputError, shown
from mmface.imaging.decode import BROKEN
from mmface.imaging.labels import LABELS
from mmface.store import Entry, Store
from mmface.store.text_files import read_text

PICTURE = re.compile(r"(\d+)\.(?:jpg|jpeg|png)", re.IGNORECASE)
PART = re.compile(r"(?:.*/)?(\d+)_(\w+)\.png", re.IGNORECASE)
MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"
LAST_TRAIN = 162770


def places(collection: Collection) -> Places:
    """The folders below the data set's root; the recipe's ``captions`` replaces the captions folder there."""
    root = Store(collection.images)
    captions = collection.captions or f"{root.uri}/celeba-caption"
    return Places(
        images=root.child("CelebA-HQ-img"),
        masks=root.child("CelebAMask-HQ-mask-anno"),
        captions=None if is_lines(captions) else Store(captions),
    )


def listing(collection: Collection, places: Places) -> Listing:
    """Lists the photographs in the order of their numbers, each with its part masks."""
    assert places.masks is not None
    found, ignored = sift(places.images.list(follow_links=True), lambda key: bool(PICTURE.fullmatch(key)))
    parts = _parts(places.masks)
    captions = captions_by_name(collection.captions, places.captions)
    splits = _splits(collection, Store(collection.images))
    files = []
    for number, entry in sorted(((_number(entry.key), entry) for entry in found), key=lambda one: (one[0], one[1].key)):
        key = entry.key
        files.append(
            SourceFile(
                source=collection.name,
                image=entry,
                masks=parts.take(key, (str(number),)) or (),
                captions=captions.take(key, names_of(key)),
                split=splits.take(key, (str(number),)),
            )
        )
    return Listing(tuple(files), ignored_suffixes=ignored, matches=(*parts.match(), *captions.match(), *splits.match()))


def merge_parts(parts: Mapping[str, Image.Image], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Merges part masks into one label mask [H, W]; of overlapping parts the later label wins, as in the data set's
    own script.

    Args:
        parts: masks by part name, all of one size, black or transparent outside the part.
        size: width and height of the photograph; the merged mask is resized to it (nearest).

    Raises:
        InputError: an unknown part name, parts of different sizes, or a part that cannot be decoded.
    """
    unknown = sorted(set(parts) - set(LABELS[1:]))
    if unknown:
        raise InputError(f"unknown parts {', '.join(unknown)}; use {', '.join(LABELS[1:])}", field="mask")
    sizes = {part.size for part in parts.values()}
    if len(sizes) > 1:
        raise InputError(f"the part masks have different sizes: {sorted(sizes)}; make them equal", field="mask")
    width, height = next(iter(sizes))
    mask = np.zeros((height, width), np.uint8)
    for label, name in enumerate(LABELS):
        if name in parts:
            mask[_covers(parts[name])] = label
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def part_name(key: str) -> str:
    """``0/00000_l_eye.png`` → ``l_eye``."""
    match = PART.fullmatch(key)
    assert match is not None
    return match[2]


def _covers(part: Image.Image) -> NDArray[np.bool_]:
    """True [H, W] inside the part: opaque pixels if the image has transparent ones, otherwise pixels not black."""
    try:
        if part.has_transparency_data:
            opacity = np.asarray(part.convert("RGBA").getchannel("A"))
            if opacity.min() < 255:
                return opacity > 0
        return np.asarray(part.convert("L")) > 0
    except BROKEN as error:
        raise InputError(f"a part mask cannot be decoded: {error}", field="mask") from None


def _parts(place: Store) -> Sidecar[tuple[Entry, ...]]:
    found, ignored = sift(place.list(follow_links=True), lambda key: bool(PART.fullmatch(key)))
    parts: dict[str, tuple[Entry, ...]] = {}
    for entry in found:
        match = PART.fullmatch(entry.key)
        assert match is not None
        number = str(int(match[1]))
        parts[number] = (*parts.get(number, ()), entry)
    return Sidecar("parts", place.uri, parts, ignored, given=False)


def _splits(collection: Collection, root: Store) -> Sidecar[Split]:
    """The split by number: from the recipe's lists, else from lists in the root, else from CelebA's partition."""
    if collection.split:
        return split_lists(collection.split, _number_text)
    lists = [name for name in LISTS if root.exists(name)]
    if lists:
        return Sidecar("split", root.uri, read_lists(root, lists, _number_text), {}, given=True)
    official = _official(root) if root.exists(MAPPING) else {}
    return Sidecar("split", f"{root.uri}/{MAPPING}", official, {}, given=bool(official))


def _number(name: str) -> int:
    digits = canonical(name).rsplit("/", 1)[-1].split(".")[0]
    if not digits.isdecimal():
        raise InputError(f"{shown(name)!r} is not the number of a photograph; write 12 or 12.jpg", field="split")
    return int(digits)


def _number_text(name: str) -> str:
    return str(_number(name))


def _official(root: Store) -> dict[str, Split]:
    """The split by number, from lines of ``idx orig_idx orig_file`` after a header."""
    text = read_text(root.read(MAPPING), field="images", name=f"{root.uri}/{MAPPING}")
    rows = [line.split() for line in text.splitlines()[1:]]
    try:
        return {str(int(row[0])): "train" if _number(row[2]) <= LAST_TRAIN else "test" for row in rows if row}
    except (ValueError, IndexError, InputError):
        raise InputError(f"{MAPPING} is damaged; download it again or remove it", field="images") from None
