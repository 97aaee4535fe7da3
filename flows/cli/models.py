"""``mmface models list|show|promote|rollback``: the registered versions of a model, and the moves of its champion."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from datetime import datetime
from typing import Any

MOVED = {"runs": "list", "promote": "promote", "rollback": "rollback"}  # the names of earlier releases

AddRecipe = Callable[[ArgumentParser], None]


def add_command(commands: Any, add_recipe: AddRecipe) -> Any:
    """Adds the group to the command line, and the names of earlier releases; returns the group, for more actions."""
    text = "List, show, promote and roll back the registered versions of the recipe's serve.model_name."
    group = commands.add_parser("models", help=text, description=text).add_subparsers(required=True, metavar="ACTION")
    _add_list(group, "list", add_recipe)
    _add_show(group, add_recipe)
    _add_promote(group, "promote", add_recipe)
    _add_rollback(group, "rollback", add_recipe)
    for old, add in (("runs", _add_list), ("promote", _add_promote), ("rollback", _add_rollback)):
        command = add(commands, old, add_recipe, hidden=True)
        command.set_defaults(run=_moved(old, command.get_default("run")))
    return group


def show_versions(arguments: Namespace) -> int:
    """``mmface models list``: every registered version of a model, newest first."""
    from flows.cli.tables import table
    from flows.cli.version_page import remarks
    from mmface.bundles.moves import version_tags
    from mmface.bundles.registry import list_versions, open_tracking
    from mmface.bundles.tracking import mlflow_errors
    from mmface.bundles.verdicts import decision_of

    name = _model_name(arguments)
    versions = list_versions(name)
    if not versions:
        print(f"no version of {name} is registered yet; run mmface retrain")
        return 0
    with mlflow_errors():
        tags = version_tags(open_tracking(), name)
    rows = []
    for one in versions:
        decided = decision_of(tags.get(one.version, {}))
        made = datetime.fromtimestamp(one.created).isoformat(" ", "minutes")
        rows.append((one.version, made, decided.verdict if decided else "-", one.run_id, ", ".join(one.aliases)))
    print(table((name, "CREATED", "GATE", "RUN", "ALIASES"), rows, right=(0,)))
    for line in remarks(name):
        print(line)
    return 0


def show_version(arguments: Namespace) -> int:
    """``mmface models show``: one version with its figures, the gate's decision, its lineage and its moves."""
    from flows.cli.version_page import page

    print(page(_model_name(arguments), arguments.version))
    return 0


def roll_back(arguments: Namespace) -> int:
    """``mmface models rollback``: makes the previous champion the champion again; running services follow."""
    from flows.steps import champions
    from mmface.store import home

    name = _model_name(arguments)
    removed, back = champions.roll_back(home(), name, arguments.version, arguments.why)
    print(f"version {removed} of {name} was rolled back; champion is version {back} again")
    return 0


def promote(arguments: Namespace) -> int:
    """``mmface models promote``: makes a version champion; running services follow."""
    from flows.steps.promotion import promote_by_hand

    given = (arguments.recipe, tuple(arguments.set), arguments.version, arguments.why)
    version, before = promote_by_hand(*given, forced=arguments.force)
    if version == before:
        print(f"version {version} is the champion already; nothing was moved")
    else:
        print(f"champion is version {version}; before it: {before or 'none'}")
    return 0


def _add_list(commands: Any, name: str, add_recipe: AddRecipe, *, hidden: bool = False) -> ArgumentParser:
    text = "List the registered versions, the gate's verdicts, and which version holds which alias."
    command = _add(commands, name, text, hidden)
    add_recipe(command)
    command.set_defaults(run=show_versions)
    return command


def _add_show(commands: Any, add_recipe: AddRecipe) -> None:
    text = "Show a version: figures with intervals, the gate's decision, lineage, every move of its aliases."
    command = _add(commands, "show", text, hidden=False)
    add_recipe(command)
    command.add_argument("version", metavar="VERSION", help="a number or an alias")
    command.set_defaults(run=show_version)


def _add_promote(commands: Any, name: str, add_recipe: AddRecipe, *, hidden: bool = False) -> ArgumentParser:
    text = "Make a version that the gate passed champion, after checking that it loads and generates an image."
    command = _add(commands, name, text, hidden)
    add_recipe(command)
    command.add_argument("version", metavar="VERSION", help="a number or an alias; see mmface models list")
    command.add_argument("--why", required=True, metavar="TEXT", help="recorded with the change")
    text = "promote a version that the gate rejected, did not decide about or never saw; recorded as forced"
    command.add_argument("--force", action="store_true", help=text)
    command.set_defaults(run=promote)
    return command


def _add_rollback(commands: Any, name: str, add_recipe: AddRecipe, *, hidden: bool = False) -> ArgumentParser:
    command = _add(commands, name, "Make the previous champion champion again.", hidden)
    add_recipe(command)
    text = "version to remove as champion; refused if it is not champion (default: the current champion)"
    command.add_argument("version", nargs="?", metavar="VERSION", help=text)
    command.add_argument("--why", default="mmface models rollback", metavar="TEXT", help="recorded with the change")
    command.set_defaults(run=roll_back)
    return command


def _add(commands: Any, name: str, text: str, hidden: bool) -> ArgumentParser:
    listed = {} if hidden else {"help": text}  # argparse lists only commands that have a help text
    command: ArgumentParser = commands.add_parser(name, description=text, **listed)
    return command


def _moved(old: str, run: Callable[[Namespace], int]) -> Callable[[Namespace], int]:
    def warn_and_run(arguments: Namespace) -> int:
        new = f"mmface models {MOVED[old]}"
        print(f"mmface: mmface {old} is now {new}; the next release removes the old name", file=sys.stderr)
        return run(arguments)

    return warn_and_run


def _model_name(arguments: Namespace) -> str:
    from mmface.config.load import load_recipe

    return load_recipe(arguments.recipe, arguments.set).serve.model_name
