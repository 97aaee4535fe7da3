"""Commands that measure systems on an evaluation set, and compare them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmface.errors import InputError

if TYPE_CHECKING:
    from mmface.evaluate.report.evaluation import Evaluation

SYSTEM = "models:/NAME@ALIAS|models:/NAME/VERSION|BUNDLE"
FILES = ("report.html", "report.md", "report.json")


def add_command(commands: Any, add_recipe: Callable[[ArgumentParser], None]) -> None:
    """Adds ``mmface evaluate`` and ``mmface compare`` to the command line."""
    text = "Measure a model, or the images of another system, on the recipe's evaluation set; write a report."
    command = commands.add_parser("evaluate", help=text, description=text)
    add_recipe(command)
    command.add_argument("system", nargs="?", metavar=SYSTEM, help="default: the champion of serve.model_name")
    text = "folder or s3:// prefix with the images of another system: mask/ID.png, sketch/ID.png"
    command.add_argument("--images", metavar="DIR", help=text)
    text = "a second system, compared row by row; a folder of images as images:DIR"
    command.add_argument("--against", metavar="SYSTEM", help=text)
    text = "write drawings and prompts of the evaluation set, for another system to paint; measure nothing"
    command.add_argument("--rows", type=Path, metavar="DIR", help=text)
    command.add_argument("--out", type=Path, metavar="DIR", help="copy the report there")
    command.set_defaults(run=evaluate)
    add_compare(commands, add_recipe)


def add_compare(commands: Any, add_recipe: Callable[[ArgumentParser], None]) -> None:
    """Adds ``compare A B``, also to the group ``mmface models``."""
    text = "Compare two systems row by row on the recipe's evaluation set: differences, intervals, what n can tell."
    command = commands.add_parser("compare", help=text, description=text)
    add_recipe(command)
    text = f"{SYSTEM}|images:DIR, or a version or an alias of serve.model_name"
    command.add_argument("a", metavar="A", help=text)
    command.add_argument("b", metavar="B", help="the same; differences are A - B")
    command.add_argument("--out", type=Path, metavar="DIR", help="copy the report there")
    command.set_defaults(run=compare)


def evaluate(arguments: Namespace) -> int:
    """``mmface evaluate``: prints the tables and where the report is."""
    if arguments.system and arguments.images:
        raise InputError("is given beside a model; name one of them", field="--images")
    if arguments.rows:
        return _write_rows(arguments)
    named = f"images:{arguments.images}" if arguments.images else arguments.system or "champion"
    return _report(arguments, [named, *([arguments.against] if arguments.against else [])])


def compare(arguments: Namespace) -> int:
    """``mmface compare``: prints the paired differences and where the report is."""
    return _report(arguments, [arguments.a, arguments.b])


def _report(arguments: Namespace, named: Sequence[str]) -> int:
    from flows.cluster.server import start_temporary_server
    from mmface.config.load import load_recipe
    from mmface.evaluate.report.evaluation import Evaluation, System, render_markdown, warnings_of

    recipe = load_recipe(arguments.recipe, arguments.set)
    systems = tuple(_system(name, recipe.serve.model_name) for name in named)
    start_temporary_server()
    from flows.evaluate import measure

    scores = measure(arguments.recipe, tuple(arguments.set), systems)
    read = tuple(System.of(name, uri, recipe.metrics.min_frechet_n) for name, uri in zip(systems, scores, strict=True))
    made = Evaluation(read, (), recipe.evaluate.grid)
    made = Evaluation(read, warnings_of(read[0].dataset, made.evalset), recipe.evaluate.grid)
    print(render_markdown(made))
    print(f"report: {_write(made, arguments.out)}")
    return 0


def _write(evaluation: Evaluation, out: Path | None) -> str:
    """Writes the report to the home, and to the folder ``out``; returns the address of the page."""
    from mmface.config import fingerprint
    from mmface.evaluate.report.evaluation import render_html, render_json, render_markdown
    from mmface.store import home

    renderers = (render_html, render_markdown, render_json)
    texts = dict(zip(FILES, (render(evaluation) for render in renderers), strict=True))
    key = fingerprint([system.dataset.manifest.fingerprint for system in evaluation.systems])
    place = home().child(f"reports/evaluation-{key}")
    for name, text in texts.items():
        place.write(name, text.encode())
        if out:
            out.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(text, encoding="utf-8")
    return f"{out / FILES[0]}" if out else f"{place.uri}/{FILES[0]}"


def _write_rows(arguments: Namespace) -> int:
    from flows.cluster.server import start_temporary_server
    from mmface.datasets.dataset import open_dataset
    from mmface.evaluate.foreign import write_rows

    start_temporary_server()
    from flows.evaluate import choose

    evalset = choose(arguments.recipe, tuple(arguments.set))
    count = write_rows(open_dataset(evalset), arguments.rows)
    print(f"{count} rows of {evalset} in {arguments.rows}")
    return 0


def _system(name: str, model: str) -> str:
    """The system in full: a version or an alias alone belongs to ``model``."""
    if name.startswith(("models:/", "images:")) or Path(name).expanduser().is_dir():
        return name
    return f"models:/{model}/{name}" if name.isdigit() else f"models:/{model}@{name}"
