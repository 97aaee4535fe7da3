"""What may stand beside photographs: masks and captions of the same name, and lists of who is held out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from mmface.data.sources.files import Kind, Match, Split, sift
from mmface.data.sources.names import canonical, has_suffix, is_lines, is_picture, stem
from mmface.errors import DatasetError, InputError, shown
from mmface.store import Entry, Store
from mmface.store.text_files import read_lines

# A validation picture must not be trained on, so it is held out like a test picture.
LISTS: dict[str, Split] = {"train.txt": "train", "val.txt": "test", "test.txt": "test"}
TEXTS = (".txt", ".caption")
NAMED = 10  # pictures and entries that an error names of each side
WANTED = 'each line must be {"file": name, "captions": [...]} in UTF-8'
Value = TypeVar("Value", covariant=True)


class Sidecar(Generic[Value]):
    """The entries of one sidecar by name, and which of them pictures have taken.

    Args:
        entries: values by the name of the picture that they belong to.
        ignored: files beside the entries, by suffix.
        given: whether the recipe names it; the folder of a layout counts as given when something is in it.
    """

    def __init__(
        self, kind: Kind, uri: str, entries: Mapping[str, Value], ignored: Mapping[str, int], *, given: bool
    ) -> None:
        self.kind, self.uri, self.entries, self.ignored = kind, uri, entries, dict(ignored)
        self.given = given or bool(entries) or bool(ignored.keys() - {"hidden"})
        self._others: dict[str, str] = {}  # names by their canonical form, where that is another
        for name in entries:
            if (plain := canonical(name)) != name:
                self._others.setdefault(plain, name)
        self._used: set[str] = set()
        self._without: list[str] = []
        self._pictures = self._missing = 0

    def take(self, key: str, names: Iterable[str]) -> Value | None:
        """The value for the picture ``key`` by the first of ``names`` that has one; notes whether there was one."""
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
        """How it fitted the pictures that asked; nothing if it was not given."""
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
        """The name as it stands wins: two pictures may have names that differ in their composition alone."""
        for name in names:
            if name in self.entries:
                return name
            plain = canonical(name)
            if plain in self.entries:
                return plain
            if plain in self._others:
                return self._others[plain]
        return None


def masks_by_stem(uri: str | None, place: Store | None) -> Sidecar[Entry]:
    """Mask files by their keys without suffix; ``uri`` is what the recipe names."""
    return _files("masks", place, is_picture, given=uri is not None)


def captions_by_name(uri: str | None, place: Store | None) -> Sidecar[Entry | tuple[str, ...]]:
    """Captions by what they name a picture by: a file name in a ``.jsonl``, a stem in a folder of text files.

    Raises:
        InputError: no such file, or a line of it is not ``{"file": name, "captions": [...]}``.
    """
    if uri is not None and is_lines(uri):
        return Sidecar("captions", uri, _read_jsonl(uri), {}, given=True)
    return _files("captions", place, lambda key: has_suffix(key, TEXTS), given=uri is not None)


def split_lists(uri: str | None, name_of: Callable[[str], str] = canonical) -> Sidecar[Split]:
    """The lists in the recipe's folder by the names in them; nothing without a folder.

    Args:
        name_of: what the picture of a line is called.

    Raises:
        InputError: a picture is both trained on and held out, or there is no list.
    """
    if uri is None:
        return Sidecar("split", "", {}, {}, given=False)
    place = Store(uri)
    lists, ignored = sift(place.list(follow_links=True), lambda key: key.lower() in LISTS)
    if not lists:
        raise InputError(f"none of {', '.join(LISTS)} is in {place.uri}", field="split")
    return Sidecar("split", place.uri, read_lists(place, (entry.key for entry in lists), name_of), ignored, given=True)


def read_lists(place: Store, lists: Iterable[str], name_of: Callable[[str], str] = canonical) -> dict[str, Split]:
    """Which split the lists name for a picture.

    Args:
        lists: keys of the lists in ``place``.
        name_of: what the picture of a line is called.

    Raises:
        InputError: a picture is both trained on and held out.
    """
    splits: dict[str, Split] = {}
    for key in lists:
        split = LISTS[key.lower()]
        for line in _lines(place, key, "split"):
            if (picture := line.strip()) and splits.setdefault(name_of(picture), split) != split:
                raise _on_both_sides(picture)
    for name, split in splits.items():
        if is_picture(name) and splits.get(stem(name), split) != split:
            raise _on_both_sides(stem(name))
    return splits


def _on_both_sides(picture: str) -> InputError:
    return InputError(f"{shown(picture)} is held out and trained on; take it from one list", field="split")


def _files(kind: Kind, place: Store | None, keep: Callable[[str], bool], *, given: bool) -> Sidecar[Entry]:
    if place is None:
        return Sidecar(kind, "", {}, {}, given=False)
    kept, ignored = sift(place.list(follow_links=True), keep)
    entries = {stem(entry.key): entry for entry in kept}
    if len(entries) < len(kept):  # the last of them counts
        ignored |= {"second of one name": len(kept) - len(entries)}
    return Sidecar(kind, place.uri, entries, ignored, given=given)


def _read_jsonl(uri: str) -> dict[str, tuple[str, ...]]:
    """Captions by name; those of all lines for one picture, in order."""
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
        raise InputError(f"{uri} line 1: the file ends without a caption; {WANTED}", field="captions")
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
