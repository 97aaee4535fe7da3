"""Finds a component's files: ``zoo:<name>`` in this package, a local folder, or a repository on the hub (§7)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from mmface.errors import MissingComponentError

ZOO = Path(__file__).parents[1] / "zoo"
PREFIX = "zoo:"
NAMES = ("vae", "clip", "parser", "sketch")
BASE = "base"  # the zoo's transformer, where training starts; no component
# A tokenizer consists of one of these sets of files.
TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))


def resolve(name: str) -> str:
    """``zoo:<name>`` to its folder in the package; any other name unchanged.

    Raises:
        MissingComponentError: no such zoo name.
    """
    if not name.startswith(PREFIX):
        return name
    short = name.removeprefix(PREFIX)
    if short not in (*NAMES, BASE):
        known = ", ".join(PREFIX + one for one in (*NAMES, BASE))
        raise MissingComponentError(f"no zoo network {name!r}; known: {known}", field="components")
    return str(ZOO / short)


class Place(NamedTuple):
    """The place of a component's files, as arguments of ``from_pretrained``.

    Attributes:
        path: a local folder, or a repository on the hub.
        options: ``revision`` and ``subfolder``, if given.
    """

    path: str
    options: dict[str, Any]

    def has(self, *files: str) -> bool:
        """Whether all of these files exist; files of a repository are downloaded into the cache."""
        if Path(self.path).is_dir():
            return all((self.folder / file).is_file() for file in files)
        from transformers.utils.hub import cached_file

        return all(
            cached_file(self.path, file, _raise_exceptions_for_missing_entries=False, **self.options) for file in files
        )

    @property
    def folder(self) -> Path:
        """The folder of the files; only for a local place."""
        return Path(self.path, self.options.get("subfolder", ""))

    def inside(self, folder: str) -> Place:
        """The subfolder ``folder`` of this place."""
        outer = self.options.get("subfolder")
        return Place(self.path, {**self.options, "subfolder": f"{outer}/{folder}" if outer else folder})

    def beside(self, old: str, new: str) -> Place:
        """The sibling folder whose name has ``new`` in place of ``old``."""
        outer, slash, name = (self.options.get("subfolder") or self.path).rpartition("/")
        other = outer + slash + name.replace(old, new)
        if "subfolder" in self.options:
            return Place(self.path, {**self.options, "subfolder": other})
        return Place(other, self.options)


def locate(name: str) -> Place:
    """The place of a component that a recipe names.

    Raises:
        MissingComponentError: a local folder, or ``zoo:<name>``, that does not exist.
    """
    path = Path(resolve(name))
    if path.is_dir():
        return Place(str(path), {})
    if path.is_absolute() or name.startswith((".", "~")):
        remedy = "train it with mmface zoo train" if name.startswith("zoo:") else "give a hub id or an existing folder"
        raise MissingComponentError(f"{name}: no folder {path}; {remedy}", field="components")
    place, _, revision = name.partition("@")
    owner, _, rest = place.partition("/")
    repository, _, folder = rest.partition("/")
    options = {"revision": revision, "subfolder": folder}
    return Place(f"{owner}/{repository}".rstrip("/"), {key: value for key, value in options.items() if value})


def text_places(place: Place) -> tuple[Place, Place]:
    """The places of a text encoder and of its tokenizer.

    Args:
        place: a folder with both, a diffusers pipeline, or the ``text_encoder`` folder of a pipeline.
    """
    if not place.has("config.json") and place.inside("text_encoder").has("config.json"):
        place = place.inside("text_encoder")
    beside = place.beside("text_encoder", "tokenizer")
    return place, beside if not has_tokenizer(place) and has_tokenizer(beside) else place


def component_folders(folder: Path) -> list[Path]:
    """The local folders that a component is read from: two if a text encoder's tokenizer is in a folder next to it."""
    return list(dict.fromkeys(place.folder for place in text_places(Place(str(folder), {}))))


def has_tokenizer(place: Place) -> bool:
    """Whether the place has one of the two sets of tokenizer files."""
    return any(place.has(*files) for files in TOKENIZER_FILES)
