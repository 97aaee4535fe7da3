"""``mmface recipe list|show|explain``: the recipes that ship, a resolved recipe with its origins, what a key means."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator, Mapping
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

from flows.cli.tables import table

if TYPE_CHECKING:
    from mmface.config.reference import RecipeKey

WIDTH = 100  # of explanations, in characters
COLUMN = 44  # where origins begin, unless a value is longer
LONGEST_LIST = 80  # characters of a list that is printed on one line


def add_command(commands: Any) -> None:
    """Wires the command into the parser of ``mmface``."""
    text = "List the recipes that ship, show one with the origin of each value, or explain a key."
    actions = commands.add_parser("recipe", help=text, description=text).add_subparsers(required=True, metavar="ACTION")

    text = "List the recipes that ship."
    actions.add_parser("list", help=text, description=text).set_defaults(run=list_recipes)

    text = "Print a resolved recipe as YAML, with the origin of each value: default, base, file or --set."
    action = actions.add_parser("show", help=text, description=text)
    action.add_argument("name", metavar="NAME", help="name or path of a recipe")
    action.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one recipe key")
    action.add_argument(
        "--json", action="store_true", help="print JSON: the recipe, and the origin of each value by key"
    )
    action.set_defaults(run=show)

    text = "Explain a recipe key: type, default, range or choices, and meaning; for a section, list its keys."
    action = actions.add_parser("explain", help=text, description=text)
    action.add_argument("key", metavar="KEY", nargs="?", help="such as train.balance or phases.0.steps (default: all)")
    action.set_defaults(run=explain)


def list_recipes(_arguments: argparse.Namespace) -> int:
    """``mmface recipe list``."""
    from mmface.config.load import summaries

    print(table(["recipe", "purpose"], [[name, purpose] for name, purpose in summaries().items()]))
    return 0


def show(arguments: argparse.Namespace) -> int:
    """``mmface recipe show``."""
    from mmface.config.origin import resolve

    resolved = resolve(arguments.name, arguments.set)
    tree = resolved.recipe.model_dump(mode="json")
    origins = {_dotted(path): origin for path, origin in resolved.origins.items()}
    if arguments.json:
        print(json.dumps({"recipe": tree, "origins": origins}, indent=2, ensure_ascii=False))
        return 0
    for line, origin in _lines(tree, origins):
        print(f"{line:{COLUMN}}  # {origin}" if origin else line)
    return 0


def explain(arguments: argparse.Namespace) -> int:
    """``mmface recipe explain``."""
    from mmface.config.reference import SECTION, below, find, reference

    if arguments.key is None:
        print(_keys(reference()))
        return 0
    key = find(arguments.key)
    print(f"{key.key}\n")
    for name, value in (("type", key.type), ("default", key.default), ("limits", key.limits)):
        if value:
            print(f"  {name:8} {value}")
    print("\n" + textwrap.fill(key.description, WIDTH, initial_indent="  ", subsequent_indent="  "))
    if key.type == SECTION:
        print("\n" + textwrap.indent(_keys(below(key)), "  "))
    return 0


def _keys(keys: list[RecipeKey]) -> str:
    return table(["key", "type", "default", "limits"], [[key.key, key.type, key.default, key.limits] for key in keys])


def _lines(node: Any, origins: Mapping[str, str], path: str = "") -> Iterator[tuple[str, str]]:
    """The lines of a section in YAML, each with the origin of its value; no origin where a line holds no value."""
    from mmface.config.reference import in_yaml

    for name, value in node.items():
        key, start = f"{path}{name}", f"{in_yaml(name)}:"
        if key in origins:
            text = in_yaml(value)
            if isinstance(value, list) and len(text) > LONGEST_LIST:
                yield start, origins[key]
                yield from ((f"  - {in_yaml(item)}", "") for item in value)
            else:
                yield f"{start} {text}", origins[key]
        elif isinstance(value, dict):
            yield start, ""
            yield from ((f"  {line}", origin) for line, origin in _lines(value, origins, f"{key}."))
        else:
            yield start, ""
            for index, item in enumerate(value):
                marks = chain(["  - "], repeat("    "))
                lines = _lines(item, origins, f"{key}.{index}.")
                yield from ((mark + line, origin) for (line, origin), mark in zip(lines, marks, strict=False))


def _dotted(path: tuple[str | int, ...]) -> str:
    return ".".join(str(part) for part in path)
