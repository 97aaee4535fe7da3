"""Reads a recipe: a short YAML file over the defaults, then ``--set`` overrides.

A file may name another recipe as its ``base`` and hold only what differs: sections are merged, lists are replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mmface.config import Collection, Recipe
from mmface.config.reference import nearest
from mmface.errors import DatasetError, InputError, RecipeError
from mmface.store import Store
from mmface.store.text_files import read_text

RECIPES = Path(__file__).parent / "recipes"
RETIRED = (("train", "keep_best"),)  # removed keys that recipes saved by older versions may contain

Tree = dict[str, Any]


@dataclass(frozen=True)
class Layer:
    """One recipe file on its own, without its base.

    Attributes:
        name: as the command line or the file above it names it.
        tree: its keys.
    """

    name: str
    tree: Tree


def load_recipe(recipe: str, overrides: tuple[str, ...] | list[str] = ()) -> Recipe:
    """Reads a recipe by name (``demo``) or path, then applies overrides.

    Args:
        recipe: name of a file in ``mmface/config/recipes``, or a path or ``s3://`` address ending in ``.yaml``, such as
            one saved by :meth:`Recipe.to_yaml`.
        overrides: ``key.path=value`` strings; list items by index, values in YAML syntax.

    Raises:
        RecipeError: no such recipe, bad YAML, unknown key, or a value out of range; names the key and the remedy.
    """
    tree = _merged(read_layers(recipe))
    if overrides:
        # They apply to the resolved tree, so that list items and defaults can be reached by path.
        tree = parse_recipe(tree).model_dump(mode="json")
    for override in overrides:
        _override(tree, *parse_override(override))
    return parse_recipe(tree)


def read_recipe(path: str) -> Recipe:
    """Reads the resolved recipe that this version or an older one saved beside an artifact.

    Raises:
        RecipeError: see :func:`load_recipe`.
    """
    return _parse_resolved(_merged(read_layers(path)))


def read_recipe_text(text: str, field: str) -> Recipe:
    """The same for the text of a file. Raises RecipeError that names ``field`` when it is not a mapping."""
    tree = yaml.safe_load(text)
    if not isinstance(tree, dict):
        raise RecipeError("its recipe is not a YAML mapping", field=field)
    return _parse_resolved(tree)


def _parse_resolved(tree: Tree) -> Recipe:
    for section, key in RETIRED:
        tree.get(section, {}).pop(key, None)
    return parse_recipe(tree)


def summaries() -> dict[str, str]:
    """Name and purpose of every recipe that ships; the purpose is the first comment line of its file."""
    files = sorted(RECIPES.glob("*.yaml"), key=lambda file: file.stem)
    return {file.stem: file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for file in files}


def parse_recipe(tree: Tree) -> Recipe:
    """Validates a plain tree.

    Raises:
        RecipeError: an unknown key, or a value out of range; one line that names the key.
    """
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "recipe"
        if first["type"] == "extra_forbidden":
            message = f"unknown key; known here: {', '.join(_known_keys(first['loc'][:-1]))}"
        else:
            given = f" (got {first['input']!r:.80})" if first["loc"] else ""
            message = first["msg"].removeprefix("Value error, ") + given
        raise RecipeError(message + _explained(first["loc"]), field=field) from None


def parse_override(override: str, option: str = "--set") -> tuple[str, Any]:
    """The dotted key and the value of an override ``key.path=value``, which the command line got as ``option``.

    Raises:
        RecipeError: it has another form, or the value is not valid YAML.
    """
    key, found, text = override.partition("=")
    if not found or not key:
        raise RecipeError(f"expected key.path=value, got {override!r}", field=option)
    try:
        return key, yaml.safe_load(text)
    except yaml.YAMLError:
        raise RecipeError(f"value {text!r} is not valid YAML", field=key) from None


def read_layers(recipe: str) -> list[Layer]:
    """The files that make up a recipe: the lowest base first, the recipe itself last.

    Raises:
        RecipeError: a file is missing or is not a YAML mapping, or a base is built on itself.
    """
    return _read_layers(recipe, ())


def _read_layers(recipe: str, above: tuple[str, ...]) -> list[Layer]:
    path = recipe if recipe.endswith((".yaml", ".yml")) else str(RECIPES / f"{recipe}.yaml")
    folder, slash, name = path.rpartition("/")
    folder = folder or slash or "."
    tree = _read_yaml(recipe, path, folder, name)
    base = tree.pop("base", None)
    if base is None:
        return [Layer(recipe, tree)]
    if not isinstance(base, str) or recipe in above:
        message = f"{path} has the base {base!r}; name a recipe that is not built on this one"
        raise RecipeError(message, field="base")
    if base.endswith((".yaml", ".yml")) and not base.startswith("/") and "://" not in base:
        base = f"{folder}/{base}"
    return [*_read_layers(base, (recipe, *above)), Layer(recipe, tree)]


def _read_yaml(recipe: str, path: str, folder: str, name: str) -> Tree:
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
    return tree


def _merged(layers: Sequence[Layer]) -> Tree:
    return reduce(_merge, (layer.tree for layer in layers))


def _merge(base: Tree, changes: Tree) -> Tree:
    merged = dict(base)
    for key, value in changes.items():
        under = merged.get(key)
        merged[key] = _merge(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def _override(tree: Tree, key: str, value: Any) -> None:
    node: Any = tree
    *parents, last = key.split(".")
    for parent in parents:
        node = node[_step(node, parent, key)]
    node[_step(node, last, key)] = value


def _step(node: Any, part: str, key: str) -> Any:
    """The key or index of ``node`` that ``part`` names."""
    if isinstance(node, list):
        if not part.isdigit() or int(part) >= len(node):
            raise RecipeError(f"{part!r} is not an index below {len(node)}" + _explained(key.split(".")), field=key)
        return int(part)
    if not isinstance(node, dict) or part not in node:
        known = ", ".join(node) if isinstance(node, dict) else "nothing below"
        raise RecipeError(f"unknown key {part!r}; known here: {known}" + _explained(key.split(".")), field=key)
    return part


def _explained(path: Sequence[int | str]) -> str:
    """The end of an error about ``path``: the command that explains the key, or its section if the key is unknown."""
    known = nearest(path)
    return f"; see mmface recipe explain {known.key}" if known else "; see mmface recipe explain"


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    node: Any = Recipe(sources=(Collection(name="any", images="any"),)).model_dump()
    for part in loc:
        node = node[0] if isinstance(part, int) else node[part]
    return list(node)
