"""Describes every recipe key for ``mmface recipe explain`` and the docs, from the pydantic tree of the recipe."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import yaml

from mmface.config import Recipe
from mmface.errors import RecipeError

SECTION = "section"
INDEX, NAME = "N", "NAME"  # in a dotted path: any index of a list, any key of a mapping
LONGEST_DEFAULT = 80  # characters; a longer list is given by its length

_TYPES = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
_BOUNDS = (
    ("minimum", "at least"),
    ("exclusiveMinimum", "above"),
    ("maximum", "at most"),
    ("exclusiveMaximum", "below"),
)
Schema = dict[str, Any]


@dataclass(frozen=True)
class RecipeKey:
    """One recipe key, or one section of keys.

    Attributes:
        key: dotted path; ``N`` stands for an index of a list and ``NAME`` for a key of a mapping (``phases.N.steps``).
        type: in words; ``section`` for a section, a list of sections or a mapping to sections.
        default: in YAML; ``required`` where there is none, empty for a plain section.
        limits: range, choices or form of the value; empty where any value of the type is accepted.
        description: what it is, its unit and its effect.
        holds: whether the value is a list or a mapping, so that ``--set`` reaches its entries.
    """

    key: str
    type: str
    default: str
    limits: str
    description: str
    holds: Literal["", "list", "mapping"] = ""


@lru_cache(maxsize=1)
def _keys() -> tuple[RecipeKey, ...]:
    schema = Recipe.model_json_schema()
    return tuple(_walk(schema, schema["$defs"], ""))


def reference() -> list[RecipeKey]:
    """Every key and section of the recipe, in the order of the tree; a section stands before its keys."""
    return list(_keys())


def find(key: str) -> RecipeKey:
    """The entry of ``key``: a path as ``--set`` takes it; indices may be left out (``phases.learning_rate``).

    Raises:
        RecipeError: there is no such key; names the closest ones.
    """
    parts = key.split(".")
    found = _find(parts)
    if found is not None:
        return found
    close = difflib.get_close_matches(key, [entry.key for entry in _keys()], n=3)
    close += [entry.key for entry in _keys() if entry.key.split(".")[-1] == parts[-1] and entry.key not in close]
    hint = f"did you mean {', '.join(close[:5])}?" if close else "no key is similar;"
    section = nearest(parts)
    command = f"mmface recipe explain {section.key}" if section else "mmface recipe explain"
    raise RecipeError(f"there is no such recipe key; {hint} {command} lists the known ones", field=key)


def nearest(path: Sequence[int | str]) -> RecipeKey | None:
    """The entry of the longest known beginning of ``path``, None if not even its first part is a key."""
    parts = [str(part) for part in path]
    return next((found for end in range(len(parts), 0, -1) if (found := _find(parts[:end])) is not None), None)


def below(section: RecipeKey) -> list[RecipeKey]:
    """The keys and sections directly below a section."""
    start = section.key + {"": "", "list": f".{INDEX}", "mapping": f".{NAME}"}[section.holds] + "."
    return [entry for entry in _keys() if entry.key.startswith(start) and "." not in entry.key[len(start) :]]


def _find(parts: Sequence[str]) -> RecipeKey | None:
    for entry in _keys():
        if _fits(entry.key.split("."), parts):
            return entry
    owner = _find(parts[:-1]) if len(parts) > 1 else None
    if owner is None or not owner.holds or (owner.holds == "list" and not parts[-1].isdigit()):
        return None
    return owner  # parts[-1] names one of its entries


def _fits(key: Sequence[str], parts: Sequence[str]) -> bool:
    if not key or not parts:
        return not key and not parts
    if key[0] in (INDEX, NAME) and _fits(key[1:], parts):
        return True  # the index or name was left out
    same = key[0] in (parts[0], NAME) or (key[0] == INDEX and parts[0].isdigit())
    return same and _fits(key[1:], parts[1:])


def _walk(section: Schema, definitions: Schema, above: str) -> Iterator[RecipeKey]:
    for name, given in section["properties"].items():
        key, schema = f"{above}{name}", _resolved(given, definitions)
        item, holds = _entries(schema, definitions)
        section_below = schema if "properties" in schema else item if "properties" in item else None
        yield RecipeKey(
            key=key,
            type=SECTION if section_below else _type(schema, definitions),
            default="" if schema is section_below else _default(given, item),
            limits=_limits(schema, definitions),
            description=given.get("description") or schema.get("description", ""),
            holds=holds,
        )
        if section_below:
            placeholder = {"": "", "list": f"{INDEX}.", "mapping": f"{NAME}."}[holds]
            yield from _walk(section_below, definitions, f"{key}.{placeholder}")


def _resolved(schema: Schema, definitions: Schema) -> Schema:
    reference = schema.get("$ref")
    return definitions[reference.rpartition("/")[2]] if reference else schema


def _entries(schema: Schema, definitions: Schema) -> tuple[Schema, Literal["", "list", "mapping"]]:
    """The schema of the entries of a list or mapping, and which of the two it is."""
    for one in schema.get("anyOf", [schema]):
        if one.get("type") == "array":
            return _resolved(one.get("items") or one["prefixItems"][0], definitions), "list"
        if one.get("type") == "object" and "properties" not in one:
            values = one.get("additionalProperties") or next(iter(one["patternProperties"].values()))
            return _resolved(values, definitions), "mapping"
    return {}, ""


def _type(schema: Schema, definitions: Schema) -> str:
    if "anyOf" in schema:
        return " or ".join(_type(one, definitions) for one in schema["anyOf"])
    if "enum" in schema:
        return "choice"
    item, holds = _entries(schema, definitions)
    if holds == "list":
        length = f"{schema['minItems']} " if "prefixItems" in schema else ""
        return f"list of {length}{_plural(_type(item, definitions))}"
    if holds == "mapping":
        return f"mapping of names to {_plural(_type(item, definitions))}"
    return _TYPES[schema["type"]]


def _plural(name: str) -> str:
    return {"integer": "integers", "number": "numbers", "text": "texts"}.get(name, name)


def _limits(schema: Schema, definitions: Schema) -> str:
    schema = _resolved(schema, definitions)
    if "anyOf" in schema:
        return "; ".join(filter(None, (_limits(one, definitions) for one in schema["anyOf"])))
    item, holds = _entries(schema, definitions)
    limits = [_range(schema)]
    if "enum" in schema:
        limits.append(", ".join(schema["enum"]))
    if "pattern" in schema:
        limits.append("not blank" if schema["pattern"] == r"\S" else f"matches {schema['pattern']}")
    if schema.get("minLength"):
        limits.append("not empty")
    if holds == "list" and "prefixItems" not in schema and schema.get("minItems"):
        limits.append(f"at least {schema['minItems']} in the list")
    if holds == "mapping":
        named = schema.get("propertyNames", {}).get("enum") or list(schema.get("patternProperties", {}))
        limits.append(f"names: {', '.join(named)}" if named else "")
    if holds:
        each = _limits(item, definitions)
        limits.append(f"each: {each}" if each else "")
    return "; ".join(filter(None, limits))


def _range(schema: Schema) -> str:
    if "minimum" in schema and "maximum" in schema:
        return f"{schema['minimum']} to {schema['maximum']}"
    return ", ".join(f"{words} {schema[name]}" for name, words in _BOUNDS if name in schema)


def _default(schema: Schema, item: Schema) -> str:
    if "default" not in schema:
        return "required"
    value = schema["default"]
    if "properties" in item and isinstance(value, list):
        value = [_differing(one, item["properties"]) for one in value]
    text = in_yaml(value)
    return text if len(text) <= LONGEST_DEFAULT else f"{len(value)} entries"


def _differing(section: Schema, properties: Schema) -> Schema:
    """What a section holds besides the defaults of its keys."""
    missing = object()
    return {name: value for name, value in section.items() if value != properties[name].get("default", missing)}


def in_yaml(value: object) -> str:
    """A value as YAML on one line, as ``--set`` takes it."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
