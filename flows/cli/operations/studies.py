"""Commands that train a recipe in several variants and compare them: ``mmface ablate`` and ``mmface sweep``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any


def add_command(commands: Any, add_recipe: Callable[[ArgumentParser], None]) -> None:
    """Adds the commands to the command line."""
    text = "Train the paper's Model-1 … Model-5 on the same data and print its table of the ablation."
    command = commands.add_parser("ablate", help=text, description=text)
    _add_shared(command, add_recipe)
    text = "VAE of Model-1 … Model-4 (default: the recipe's, and Model-5 equals Model-4)"
    command.add_argument("--vae", metavar="ID|FOLDER", help=text)
    command.set_defaults(run=run_study, grid=[], metric="mask/miou", stop_early=False)
    text = "Train a recipe with every combination of some values of its keys and compare the results."
    command = commands.add_parser("sweep", help=text, description=text)
    _add_shared(command, add_recipe)
    text = "one recipe key and its values, such as train.ema_decay=[0.99, 0.999]; may be given several times"
    command.add_argument("--grid", action="append", required=True, metavar="KEY=[VALUE, …]", help=text)
    text = "figure that orders the results (default: mask/miou)"
    command.add_argument("--metric", default="mask/miou", metavar="NAME", help=text)
    text = "stop a trial whose held-out loss is in the worse half after a quarter or half of its steps (ASHA)"
    command.add_argument("--stop-early", action="store_true", help=text)
    command.set_defaults(run=run_study, vae=None)


def run_study(arguments: Namespace) -> int:
    """Runs the flow ``study`` and prints its tables."""
    from flows.cluster.server import start_temporary_server
    from flows.steps.preflight import check
    from mmface.bundles.weights import pin_start
    from mmface.config.load import load_recipe
    from mmface.studies.trials import ablation, sweep

    recipe = pin_start(load_recipe(arguments.recipe, arguments.set))
    # Errors in the arguments cost a second here, and a minute in the flow.
    for trial in (
        sweep(recipe, arguments.grid, arguments.seeds)
        if arguments.grid
        else ablation(recipe, arguments.seeds, arguments.vae)
    ):
        load_recipe(arguments.recipe, [*arguments.set, *trial.overrides])
    check(recipe)
    start_temporary_server()
    from flows.study import study

    made = study(
        arguments.recipe,
        tuple(arguments.set),
        tuple(arguments.grid),
        arguments.seeds,
        arguments.vae,
        arguments.metric,
        arguments.stop_early,
        arguments.at_once,
    )
    print(made.summary())
    return 0


def _add_shared(command: ArgumentParser, add_recipe: Callable[[ArgumentParser], None]) -> None:
    add_recipe(command)
    text = "trainings of each variant, with train.seed counted from the recipe's (default: 1)"
    command.add_argument("--seeds", type=int, default=1, metavar="N", help=text)
    text = "trials that run at the same time (default: 1); each needs the workers of the recipe"
    command.add_argument("--at-once", type=int, default=1, metavar="N", help=text)
