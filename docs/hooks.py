"""MkDocs hook: pages generated from the code at build time, so that they always agree with it.

Every function here returns the Markdown of one page. Nothing of it is committed.
"""

from __future__ import annotations

import argparse
import ast
import html
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GAUGES = {"Service": "serve/deploy/gauges.py", "Training": "ray_jobs/shared/gauges.py"}
# What stands above the generated parts.
RECIPE = """# Recipe keys

A recipe is a YAML file over these defaults; `--set KEY=VALUE` overrides one key. In a list, `N` stands for an index, as
in `phases.0.steps`; `NAME` stands for a name of your own. Unknown keys are refused. `mmface recipe explain KEY` prints
the entry of a key, `mmface recipe show NAME` a resolved recipe with the origin of every value.
"""
COMMAND_LINE = """# Command line

A user error prints one line that names the field and the fix, and exits with code 2. An interrupt exits with code 130;
run the same command again to resume. `--recipe` takes the name of a recipe that ships, or the path or `s3://` address
of a YAML file.
"""
HTTP = """# HTTP routes and fields

From the OpenAPI document that the service answers at `/openapi.json`; `/docs` shows the same with a form for each
route. Commands for every route: [HTTP by example](http.md).
"""
METRICS = """# Metrics

The service and training export their figures through Ray's metrics. Prometheus scrapes each node at the port of
`--metrics-export-port` (8080 in the manifests) and sees every name with the prefix `ray_`. The dashboards are in
`infra/grafana`; `mmface doctor` prints where an installed package keeps them. MLflow keeps the whole history of a
training.
"""
KEY_HEADER = ("Key", "Type and limits", "Default", "Meaning")


def on_files(files: Any, config: Any) -> Any:
    """Called by MkDocs: adds the generated pages to those of ``docs/``."""
    from mkdocs.structure.files import File

    for path, make in PAGES.items():
        files.append(File.generated(config, path, content=make()))
    return files


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table."""
    head = list(header)
    lines = [head, ["---"] * len(head), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(value: object) -> str:
    return " ".join(str(value).replace("|", "&#124;").split())


def _code(value: object) -> str:
    """As code; in HTML, because a table's cell cannot hold a vertical bar between backticks."""
    return f"<code>{html.escape(str(value), quote=False)}</code>" if str(value) else ""


# --- recipe keys


def recipe_page() -> str:
    """Every recipe key: type, default, limits and meaning."""
    from mmface.config.reference import reference

    parts = [RECIPE]
    entries = reference()
    rows: dict[str, list[list[str]]] = {"": []} | {one.key: [] for one in entries if one.type == "section"}
    for one in entries:
        if one.type != "section":
            above = ".".join(part for part in one.key.split(".")[:-1] if part not in ("N", "NAME"))
            key = f'<span id="{_anchor(one.key)}"></span>{_code(one.key)}'
            limits = _code(one.limits) if one.type == "choice" or "matches" in one.limits else one.limits
            kind = f"{one.type}; {limits}" if limits else one.type
            default = one.default if one.default == "required" else _code(one.default)
            rows[above].append([key, kind, default, one.description])
    parts.append(table(KEY_HEADER, rows[""]))
    for one in entries:
        if one.type == "section":
            parts += [f"## `{one.key}` {{ #{_anchor(one.key)} }}\n", f"{one.description}\n"]
            parts.append(table(KEY_HEADER, rows[one.key]) if rows[one.key] else "")
    return "\n".join(parts)


def _anchor(key: str) -> str:
    return key.replace(".", "-").replace("_", "-")


# --- command line


def command_line_page() -> str:
    """Every command and option, from the parser of ``mmface``."""
    from flows.cli.command_line import _parser

    return "\n".join([COMMAND_LINE, *_commands(_parser())])


def _commands(parser: argparse.ArgumentParser, level: int = 2) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help for choice in action._choices_actions}
            for name, command in action.choices.items():
                yield f"{'#' * level} `{command.prog}`\n"
                yield " ".join((command.description or _sentence(helps.get(name) or "")).split()) + "\n"
                yield from _options(command)
                yield from _commands(command, level + 1)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}".rstrip(".") + "." if text else ""


def _options(command: argparse.ArgumentParser) -> Iterator[str]:
    shown = [one for one in command._actions if not isinstance(one, argparse._HelpAction | argparse._SubParsersAction)]
    if shown:
        formatter = command._get_formatter()
        rows = [(_code(formatter._format_action_invocation(one)), _sentence(_help(formatter, one))) for one in shown]
        yield table(["Argument", "Meaning"], rows)


def _help(formatter: argparse.HelpFormatter, action: argparse.Action) -> str:
    text = formatter._expand_help(action) if action.help else ""
    if action.required and action.option_strings:
        return f"{text} (required)" if text else "required"
    plain = isinstance(action.default, int | float | str) and not isinstance(action.default, bool)
    if plain and action.default not in ("", argparse.SUPPRESS) and "default" not in text:
        return f"{text} (default: {action.default})" if text else f"default: {action.default}"
    return text


# --- HTTP


def http_page() -> str:
    """Every route with its fields, answers and schemas, from the OpenAPI document of the service."""
    from mmface.config import Serve
    from serve.http.api import create_app

    document = create_app(None, Serve()).openapi()  # type: ignore[arg-type]  # no request is answered here
    parts = [HTTP]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts += [f"## `{method.upper()} {path}`\n", *_operation(path, operation)]
    parts.append("## Schemas\n")
    for name, schema in sorted(document["components"]["schemas"].items()):
        parts += [f"### `{name}`\n", f"{schema.get('description', '').replace('``', '`')}\n", *_fields(schema)]
    return "\n".join(parts)


def _operation(path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    given = operation["summary"], operation.get("description", "")
    texts = [text for text in given if text and text.lower() != path.strip("/")]  # FastAPI's own summary is the path
    yield " ".join(f"{text.rstrip('.')}." for text in texts) + "\n"
    parameters = operation.get("parameters", [])
    if parameters:
        rows = [(_code(one["name"]), one["in"], one.get("description", "")) for one in parameters]
        yield table(["Parameter", "In", "Meaning"], rows)
    content = operation.get("requestBody", {}).get("content", {})
    if content:
        yield f"Body: {' or '.join(_code(kind) for kind in content)}.\n"
        yield from _fields(next(iter(content.values()))["schema"])
    answers = [(_code(status), one["description"]) for status, one in operation["responses"].items()]
    yield table(["Status", "Meaning"], answers)


def _fields(schema: Mapping[str, Any]) -> Iterator[str]:
    required = schema.get("required", ())
    rows = [
        (_code(name), _type(field), "required" if name in required else _default(field), field.get("description", ""))
        for name, field in schema.get("properties", {}).items()
    ]
    if rows:
        yield table(["Field", "Type", "Default", "Meaning"], rows)


def _default(field: Mapping[str, Any]) -> str:
    value = field.get("default")
    return "" if value in (None, "") else _code(value)


def _type(field: Mapping[str, Any]) -> str:
    if "$ref" in field:
        return _code(field["$ref"].rsplit("/", 1)[-1])
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_type(one) for one in field["anyOf"]))
    if "enum" in field or "const" in field:
        return ", ".join(_code(one) for one in field.get("enum", [field.get("const")]))
    text = str(field.get("type", "any"))
    if text == "array":
        text = f"list of {_type(field.get('items', {}))}"
    low, high = field.get("minimum"), field.get("maximum")
    return f"{text}, {low:g} to {high:g}" if low is not None and high is not None and high < 1e9 else text


# --- metrics


def metrics_page() -> str:
    """Every metric that the service and training export, read from the source: creating them needs a running Ray."""
    parts = [METRICS]
    for title, path in GAUGES.items():
        rows = [(_code(name), kind, ", ".join(map(_code, tags)), text) for name, kind, tags, text in metrics(path)]
        parts += [f"## {title}\n", f"Defined in `{path}`.\n", table(["Metric", "Kind", "Tags", "Meaning"], rows)]
    return "\n".join(parts)


def metrics(path: str) -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    """``(name, kind, tags, description)`` of every metric that a module defines."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    constants = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            if "tag_keys" in given:
                tags = given["tag_keys"]
                keys = ast.literal_eval(constants[tags.id] if isinstance(tags, ast.Name) else tags)
                text = given["description"] if "description" in given else node.args[1]
                yield ast.literal_eval(node.args[0]), node.func.id, keys, ast.literal_eval(text)


# --- pages that lie elsewhere in the repository


def changelog_page() -> str:
    """``CHANGELOG.md``, whose links are those of the repository's root."""
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").replace("](docs/", "](")


def zoo_page() -> str:
    """Figures of the networks that ship."""
    return (ROOT / "mmface" / "zoo" / "README.md").read_text(encoding="utf-8")


PAGES = {
    "reference/recipe.md": recipe_page,
    "reference/cli.md": command_line_page,
    "reference/openapi.md": http_page,
    "reference/metrics.md": metrics_page,
    "benchmarks/zoo.md": zoo_page,
    "changelog.md": changelog_page,
}
