"""What may stand beside photographs: masks and captions of the same name, and lists of who is held out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any, BinaryIO, TypeVar

from mmface.data.sources.files import Split, is_picture, stem
from mmface.errors import DatasetError, InputError
from mmface.storage import Entry, Store

# A validation picture must not be trained on, so it is held out like a test picture.
LISTS: dict[str, Split] = {"train.txt": "train", "val.txt": "test", "test.txt": "test"}
Value = TypeVar("Value")


def masks_by_stem(place: Store | None) -> dict[str, Entry]:
    """Mask files by their keys without suffix."""
    return {stem(entry.key): entry for entry in place.list() if is_picture(entry.key)} if place else {}


def captions_by_name(uri: str | None, place: Store | None) -> Mapping[str, Entry | str]:
    """Captions by what they name a picture by: a file name in a ``.jsonl``, a stem in a folder of text files.

    Raises:
        InputError: no such file, or a line of it is not ``{"file": name, "captions": [...]}``.
    """
    if place is not None:
        return {stem(entry.key): entry for entry in place.list() if entry.key.endswith(".txt")}
    return _read_jsonl(uri) if uri else {}


def read_split(place: Store) -> dict[str, Split]:
    """Which split the lists in ``place`` name for a picture: by key, file name, or either without its suffix.

    Raises:
        InputError: a picture is both trained on and held out, or there is no list.
    """
    splits: dict[str, Split] = {}
    found = [name for name in LISTS if place.exists(name)]
    if not found:
        raise InputError(f"none of {', '.join(LISTS)} is in {place.uri}", field="split")
    for name in found:
        with _open(place, name, "split") as lines:
            for line in lines:
                picture = line.decode("utf-8", errors="replace").strip()
                if picture and splits.setdefault(picture, LISTS[name]) != LISTS[name]:
                    raise InputError(f"{picture} is held out and trained on; take it from one list", field="split")
    return splits


def lookup(found: Mapping[str, Value], key: str) -> Value | None:
    """The value for a picture, by its key, its key without suffix, its file name, or that without suffix."""
    if not found:
        return None
    name = PurePosixPath(key).name
    return next((found[one] for one in (key, stem(key), name, stem(name)) if one in found), None)


def require_match(given: Mapping[Any, Any], matched: Iterable[object], field: str, uri: str) -> None:
    """Raises InputError when sidecars were given and none of them belongs to any picture."""
    if given and not any(matched):
        example = next(iter(given))
        raise InputError(f"nothing in {uri} has the name of a picture (it names {example!r})", field=field)


def _read_jsonl(uri: str) -> dict[str, str]:
    folder, _, name = uri.rpartition("/")
    captions: dict[str, str] = {}
    with _open(Store(folder or "."), name, "captions") as lines:
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                # One caption a line, as in a text file: one form for both, and a third of a list's memory.
                captions[record["file"]] = "\n".join(" ".join(caption.split()) for caption in record["captions"])
            except (ValueError, KeyError, TypeError, AttributeError):
                remedy = 'each line must be {"file": name, "captions": [...]} in UTF-8'
                raise InputError(f"{uri} line {number}: {remedy}", field="captions") from None
    return captions


def _open(place: Store, name: str, field: str) -> BinaryIO:
    try:
        return place.open(name)
    except DatasetError as error:
        raise InputError(error.message, field=field) from None
