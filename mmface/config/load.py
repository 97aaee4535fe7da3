"""The recipes that ship, and how one is read: a short YAML file over the defaults, then ``--set`` overrides.

A file may name another recipe as its ``base`` and hold only what differs: sections are merged, lists are replaced.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mmface.config import Collection, Recipe
from mmface.errors import DatasetError, InputError, RecipeError
from mmface.store import Store
from mmface.store.text_files import read_text

RECIPES = Path(__file__).parent / "recipes"
RETIRED = (("train", "keep_best"),)  # keys that saved recipes may spell out and that are unknown in others


def load_recipe(recipe: str, overrides: tuple[str, ...] | list[str] = ()) -> Recipe:
    """Reads a recipe by name (``demo``), path or YAML text saved by :meth:`Recipe.to_yaml`, then applies overrides.

    Args:
        recipe: name of a file in ``mmface/recipes``, or a path or ``s3://`` address ending in ``.yaml``.
        overrides: ``key.path=value`` strings; list items by index, values in YAML syntax.

    Raises:
        RecipeError: no such recipe, bad YAML, unknown key, or a value out of range; names the key and the remedy.
    """
    tree = _read_yaml(recipe)
    if overrides:
        # They apply to the resolved tree, so that list items and defaults can be reached by path.
        tree = parse_recipe(tree).model_dump(mode="json")
    for override in overrides:
        _override(tree, override)
    return parse_recipe(tree)


def read_recipe(path: str) -> Recipe:
    """The resolved recipe that was saved beside an artifact, by this version or by an older one.

    Raises:
        RecipeError: see :func:`load_recipe`.
    """
    tree = _read_yaml(path)
    for section, key in RETIRED:
        tree.get(section, {}).pop(key, None)
    return parse_recipe(tree)


def parse_recipe(tree: dict[str, Any]) -> Recipe:
    """Validates a plain tree; every error is one line that names the key."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "recipe"
        if first["type"] == "extra_forbidden":
            siblings = _known_keys(first["loc"][:-1])
            raise RecipeError(f"unknown key; known here: {', '.join(siblings)}", field=field) from None
        message = first["msg"].removeprefix("Value error, ")
        given = f" (got {first['input']!r:.80})" if first["loc"] else ""
        raise RecipeError(f"{message}{given}", field=field) from None


def _read_yaml(recipe: str, *above: str) -> dict[str, Any]:
    path = recipe if recipe.endswith((".yaml", ".yml")) else str(RECIPES / f"{recipe}.yaml")
    folder, slash, name = path.rpartition("/")
    folder = folder or slash or "."
    try:
        data = Store(folder).read(name)
    except DatasetError:
        known = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml")))
        message = f"no recipe {recipe!r}; known: {known}, or a path or s3:// address ending in .yaml"
        raise RecipeError(message, field="recipe") from None
    try:
        tree = yaml.safe_load(read_text(data, field="recipe", name=path)) or {}
    except InputError as error:
        raise RecipeError(error.message, field="recipe") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {str(error).splitlines()[0]}", field="recipe") from None
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} must hold a mapping of keys", field="recipe")
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str) or recipe in above:
        raise RecipeError(f"{path} names {base!r}: a recipe that is not made from this one is wanted", field="base")
    if base.endswith((".yaml", ".yml")) and not base.startswith("/") and "://" not in base:
        base = f"{folder}/{base}"
    return _merge(_read_yaml(base, recipe, *above), tree)


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        under = merged.get(key)
        merged[key] = _merge(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def _override(tree: dict[str, Any], override: str) -> None:
    key, found, text = override.partition("=")
    if not found or not key:
        raise RecipeError(f"expected key.path=value, got {override!r}", field="--set")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise RecipeError(f"value {text!r} is not valid YAML", field=key) from None
    node: Any = tree
    *parents, last = key.split(".")
    for parent in parents:
        node = node[_step(node, parent, key)]
    node[_step(node, last, key)] = value


def _step(node: Any, part: str, key: str) -> Any:
    if isinstance(node, list):
        if not part.isdigit() or int(part) >= len(node):
            raise RecipeError(f"{part!r} is not an index below {len(node)}", field=key)
        return int(part)
    if not isinstance(node, dict) or part not in node:
        known = ", ".join(node) if isinstance(node, dict) else "nothing below"
        raise RecipeError(f"unknown key {part!r}; known here: {known}", field=key)
    return part


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    node: Any = Recipe(sources=(Collection(name="any", images="any"),)).model_dump()
    for part in loc:
        node = node[0] if isinstance(part, int) else node[part]
    return list(node)
