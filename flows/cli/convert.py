"""``mmface convert``: turns a released checkpoint into a bundle, and registers it if wanted."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

ABOUT = """
Convert a released MMFace-DiT checkpoint (256 or 512 px, ddpm or flow) to a bundle. Its keys and shapes must be exactly
those of the model. The recipe gives what the tensors do not: objective, resolution of the last phase, components; the
recipes released-flow and released-ddpm are written for this. With --alias the bundle is also registered, for mmface
generate --model NAME@ALIAS and mmface serve --set serve.alias=ALIAS.
"""


def add_command(commands: Any, add_recipe: Callable[[argparse.ArgumentParser], None]) -> None:
    """Adds the command to the command line."""
    command = commands.add_parser("convert", help="Convert a released checkpoint to a bundle.", description=ABOUT)
    command.add_argument("folder", metavar="FOLDER", help="released checkpoint: a folder, a file or a hub id")
    add_recipe(command)
    command.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder to write; must not exist")
    command.add_argument("--alias", metavar="ALIAS", help="also register the bundle and give it this alias")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """``mmface convert``."""
    from mmface.bundles import registry
    from mmface.bundles.moves import PREVIOUS
    from mmface.config.load import load_recipe
    from mmface.errors import InputError

    if arguments.alias in (registry.CHAMPION, PREVIOUS):
        raise InputError(f"only a promotion moves {arguments.alias}; choose another alias", field="--alias")
    recipe = load_recipe(arguments.recipe, arguments.set)
    from flows.steps.champions import turn
    from mmface.bundles.conversion import convert
    from mmface.store import home

    print(convert(arguments.folder, recipe, arguments.out))
    if arguments.alias:
        name = recipe.serve.model_name
        mlflow_run = registry.start_run(f"convert-{recipe.name}")
        version = registry.register_bundle(arguments.out, mlflow_run, name)
        registry.finish_run(mlflow_run)
        with turn(home(), name) as mine:
            before = registry.get_alias(name, arguments.alias)
            mine.move(version, expected=before, kind="set", why="mmface convert", alias=arguments.alias)
        print(f"{name} {version} {arguments.alias}")
    return 0
