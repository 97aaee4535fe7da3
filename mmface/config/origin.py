"""Tells where each value of a resolved recipe comes from: a default, a base, the recipe's file or ``--set``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mmface.config import Recipe
from mmface.config.load import load_recipe, parse_override, read_layers

DEFAULT, OVERRIDE = "default", "--set"

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Resolved:
    """A recipe and the origin of its values.

    Attributes:
        recipe: with overrides applied.
        origins: by path of a value, in the order of the tree: ``default``, ``base NAME``, ``file NAME`` or ``--set``.
            A list of plain values counts as one value.
    """

    recipe: Recipe
    origins: dict[Path, str]


def resolve(name: str, overrides: Sequence[str] = ()) -> Resolved:
    """Loads a recipe and finds the origin of every value; takes and raises what :func:`load_recipe` does."""
    recipe = load_recipe(name, list(overrides))
    settings = [parse_override(override) for override in overrides]
    *bases, file = read_layers(name)
    layers = [(f"file {file.name}", file.tree), *((f"base {base.name}", base.tree) for base in reversed(bases))]

    def origin(path: Path) -> str:
        for key, value in reversed(settings):  # a later override replaces an earlier one
            sets = _sets(key.split("."), value, path)
            if sets is not None:
                return OVERRIDE if sets else DEFAULT
        for label, tree in layers:
            gives = _gives(tree, path)
            if gives is not None:
                return label if gives else DEFAULT
        return DEFAULT

    return Resolved(recipe, {path: origin(path) for path in _values(recipe.model_dump(mode="json"))})


def _values(node: Any, path: Path = ()) -> Iterator[Path]:
    """Paths of all values: sections, lists of sections and mappings are entered."""
    if isinstance(node, dict) and node:
        for name, below in node.items():
            yield from _values(below, (*path, name))
    elif isinstance(node, list) and any(isinstance(item, dict) for item in node):
        for index, item in enumerate(node):
            yield from _values(item, (*path, index))
    else:
        yield path


def _sets(key: Sequence[str], value: Any, path: Path) -> bool | None:
    """What an override does to the value at ``path``; see :func:`_gives`."""
    names = [str(part) for part in path]
    if names[: len(key)] == list(key):
        return _gives(value, path[len(key) :], replaces=True)
    return True if list(key[: len(names)]) == names else None


def _gives(tree: Any, path: Path, *, replaces: bool = False) -> bool | None:
    """Whether ``tree`` gives the value at ``path``: True, False if it resets it to the default, None if it is silent.

    Args:
        replaces: the tree replaces what was there; otherwise only lists do and sections are merged.
    """
    node = tree
    for part in path:
        replaces = replaces or isinstance(node, list)
        inside = part in node if isinstance(node, dict) else isinstance(node, list)
        if not inside:
            return False if replaces else None
        node = node[part]
    return True
