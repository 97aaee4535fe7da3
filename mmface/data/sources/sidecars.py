"""Sidecars of a collection: masks and captions that match photographs by name, and train and test lists."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from mmface.data.sources.files import Kind, Match, Split, sift
from mmface.data.sources.names import canonical, has_suffix, is_lines, is_picture, stem
from mmface.errors import DatasetError, InputError, shown
from mmface.store import Entry, Store
from mmface.store.text_files import read_lines

# Validation photographs are held out like test photographs: training must never use them.
LISTS: dict[str, Split] = {"train.txt": "train", "val.txt": "test", "test.txt": "test"}
TEXTS = (".txt", ".caption")
NAMED = 10  # unmatched photographs, and as many unmatched entries, that an error lists
WANTED = 'each line must be {"file": name, "captions": [...]} in UTF-8'
Value = TypeVar("Value", covariant=True)


class Sidecar(Generic[Value]):
    """The entries of one sidecar by name; counts how many of them match a photograph.

    Args:
        entries: values by the name of their photograph.
        ignored: number of other files in the folder, by suffix.
        given: whether the recipe names the sidecar; a layout's own folder counts as given unless it is empty.
    """

    def __init__(
        self, kind: Kind, uri: str, entries: Mapping[str, Value], ignored: Mapping[str, int], *, given: bool
    ) -> None:
        self.kind, self.uri, self.entries, self.ignored = kind, uri, entries, dict(ignored)
        self.given = given or bool(entries) or bool(ignored.keys() - {"hidden"})
        self._by_canonical: dict[str, str] = {}  # names that differ from their canonical form, by that form
        for name in entries:
            if (plain := canonical(name)) != name:
                self._by_canonical.setdefault(plain, name)
        self._used: set[str] = set()
        self._without: list[str] = []
        self._pictures = self._missing = 0

    def take(self, key: str, names: Iterable[str]) -> Value | None:
        """The value of the first of ``names`` that has one, for the photograph ``key``; counts hit or miss."""
        self._pictures += 1
        found = self._find(names) if self.entries else None
        if found is None:
            self._missing += 1
            if len(self._without) < NAMED:
                self._without.append(key)
            return None
        self._used.add(found)
        return self.entries[found]

    def match(self) -> tuple[Match, ...]:
        """The counts over all photographs passed to :meth:`take`; empty if the sidecar was not given."""
        if not self.given:
            return ()
        unused = (name for name in self.entries if name not in self._used)
        return (
            Match(
                kind=self.kind,
                uri=self.uri,
                pictures=self._pictures,
                matched=self._pictures - self._missing,
                entries=len(self.entries),
                used=len(self._used),
                without=tuple(map(shown, self._without)),
                unused=tuple(shown(name) for name, _ in zip(unused, range(NAMED), strict=False)),
                ignored=self.ignored,
            ),
        )

    def _find(self, names: Iterable[str]) -> str | None:
        """The entry's name; an exact match comes first, because two file names may differ only in Unicode form."""
        for name in names:
            if name in self.entries:
                return name
            plain = canonical(name)
            if plain in self.entries:
                return plain
            if plain in self._by_canonical:
                return self._by_canonical[plain]
        return None


def masks_by_stem(uri: str | None, place: Store | None) -> Sidecar[Entry]:
    """Mask files by their keys without suffix; ``uri`` is the folder that the recipe names, if any."""
    return _files("masks", place, is_picture, given=uri is not None)


def captions_by_name(uri: str | None, place: Store | None) -> Sidecar[Entry | tuple[str, ...]]:
    """Captions by the name of their photograph: ``file`` in a ``.jsonl``, the stem in a folder of text files.

    Raises:
        InputError: no such file, or a line that is not ``{"file": name, "captions": [...]}``.
    """
    if uri is not None and is_lines(uri):
        return Sidecar("captions", uri, _read_jsonl(uri), {}, given=True)
    return _files("captions", place, lambda key: has_suffix(key, TEXTS), given=uri is not None)


def split_lists(uri: str | None, name_of: Callable[[str], str] = canonical) -> Sidecar[Split]:
    """The split of each name in the lists of the recipe's folder; empty without a folder.

    Args:
        name_of: turns a line into the name of its photograph.

    Raises:
        InputError: a photograph is in a train list and in a test list, or the folder holds no list.
    """
    if uri is None:
        return Sidecar("split", "", {}, {}, given=False)
    place = Store(uri)
    lists, ignored = sift(place.list(follow_links=True), lambda key: key.lower() in LISTS)
    if not lists:
        raise InputError(f"none of {', '.join(LISTS)} is in {place.uri}", field="split")
    return Sidecar("split", place.uri, read_lists(place, (entry.key for entry in lists), name_of), ignored, given=True)


def read_lists(place: Store, lists: Iterable[str], name_of: Callable[[str], str] = canonical) -> dict[str, Split]:
    """The split of each name in the lists.

    Args:
        lists: keys of the lists in ``place``.
        name_of: turns a line into the name of its photograph.

    Raises:
        InputError: a photograph is in a train list and in a test list.
    """
    splits: dict[str, Split] = {}
    for key in lists:
        split = LISTS[key.lower()]
        for line in _lines(place, key, "split"):
            if (picture := line.strip()) and splits.setdefault(name_of(picture), split) != split:
                raise _in_both(picture)
    for name, split in splits.items():
        if is_picture(name) and splits.get(stem(name), split) != split:
            raise _in_both(stem(name))
    return splits


def _in_both(picture: str) -> InputError:
    return InputError(
        f"{shown(picture)} is in train.txt and in val.txt or test.txt; remove it from one list", field="split"
    )


def _files(kind: Kind, place: Store | None, keep: Callable[[str], bool], *, given: bool) -> Sidecar[Entry]:
    if place is None:
        return Sidecar(kind, "", {}, {}, given=False)
    kept, ignored = sift(place.list(follow_links=True), keep)
    entries = {stem(entry.key): entry for entry in kept}
    if len(entries) < len(kept):  # of equal names, the last is used
        ignored |= {"second of one name": len(kept) - len(entries)}
    return Sidecar(kind, place.uri, entries, ignored, given=given)


def _read_jsonl(uri: str) -> dict[str, tuple[str, ...]]:
    """Captions by name, in the order of the file; a photograph may have several lines."""
    folder, _, key = uri.rpartition("/")
    names: dict[str, str] = {}
    captions: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(_lines(Store(folder or "."), key, "captions"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            name = names.setdefault(canonical(record["file"]), record["file"])
            texts = _texts(record["captions"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(f"{uri} line {number}: {WANTED}", field="captions") from None
        captions[name] = (*captions.get(name, ()), *texts)
    if not captions:
        raise InputError(f"{uri} line 1: the file holds no caption; {WANTED}", field="captions")
    return captions


def _texts(captions: object) -> tuple[str, ...]:
    """The captions of one line, whitespace collapsed; an empty list counts as one empty caption.

    Raises:
        TypeError: neither a string nor a list.
        AttributeError: an item of the list is not a string.
    """
    if not isinstance(captions, str | list):
        raise TypeError("captions are a list of strings, or one string")
    given = [captions] if isinstance(captions, str) else captions
    return tuple(" ".join(caption.split()) for caption in given) or ("",)


def _lines(place: Store, key: str, field: str) -> Iterator[str]:
    try:
        file = place.open(key)
    except DatasetError as error:
        raise InputError(error.message, field=field) from None
    return read_lines(file, field=field, name=f"{place.uri}/{key}")
