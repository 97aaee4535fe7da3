"""The command line ``mmface …``. Parsing imports the standard library only; each command imports what it needs."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from flows.cli import convert, datasets, estimate, evaluate, generate, models, quarantine, recipe, watermark
from flows.cli.operations import deploy, jobs, lineage, stack, studies

Command = Callable[[argparse.Namespace], int]
Commands = argparse._SubParsersAction  # what ``add_subparsers`` returns


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    A user error prints one line on stderr and gives 2, an interrupt 130, a closed pipe 141.
    """
    arguments = _parser().parse_args(argv)
    from mmface.config.environment import prepare_environment
    from mmface.errors import MMFaceError

    _set_up_logging()
    try:
        prepare_environment()
        command: Command = arguments.run
        code = command(arguments)
        sys.stdout.flush()  # here, where a closed pipe is caught
        return code
    except MMFaceError as error:
        print(f"mmface: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mmface: interrupted; run the same command again to resume", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as head, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit must not fail again
        return 141


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mmface", description="Face photographs in, a served face generator out.")
    parser.add_argument("--version", action="version", version=version("mmface"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_retrain(commands)
    generate.add_command(commands)
    evaluate.add_compare(models.add_command(commands, _add_recipe), _add_recipe)
    _add_recipe(_add(commands, "serve", _serve, "Serve the champion over HTTP until interrupted."))
    _add(commands, "doctor", _doctor, "Report what is installed, reachable and missing, and how to fix it.")
    for group in (datasets, quarantine, jobs, watermark, recipe, lineage):
        group.add_command(commands)
    for one in (evaluate, studies, convert, estimate, stack, deploy):
        one.add_command(commands, _add_recipe)
    _add_portraits(commands)
    _add_zoo(commands)
    return parser


def _add(commands: Commands, name: str, run: Command, text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text)
    command.set_defaults(run=run)
    return command


def _add_retrain(commands: Commands) -> None:
    command = _add(commands, "retrain", _retrain, "Run every stage: prepare, train, evaluate, gate, register, report.")
    _add_recipe(command)
    text = "folder or s3:// prefix of photographs (default: draw portraits)"
    command.add_argument("--images", metavar="DIR", help=text)
    text = "masks, named like the photographs (default: computed by the parser)"
    command.add_argument("--masks", metavar="DIR", help=text)
    command.add_argument("--captions", metavar="FILE|DIR", help="a .jsonl file, or a folder of .txt files")
    text = "where stages run: as jobs on the cluster of RAY_ADDRESS, or in this process (default: as RAY_ADDRESS says)"
    command.add_argument("--on", choices=["cluster", "local"], help=text)
    text = "train even if the version of train.start=models:/NAME@ALIAS was made of these photographs by this recipe"
    command.add_argument("--force", action="store_true", help=text)


def _add_portraits(commands: Commands) -> None:
    command = _add(commands, "portraits", _portraits, "Draw a collection of procedural portraits with exact masks.")
    command.add_argument("--n", type=int, default=400)
    command.add_argument("--size", type=int, default=128)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--out", type=Path, required=True)


def _add_zoo(commands: Commands) -> None:
    command = _add(commands, "zoo", _zoo, "Train or measure the small networks that ship with the package.")
    command.add_argument("action", choices=["train", "measure"])
    command.add_argument(
        "--only",
        choices=["vae", "decoder", "parser", "sketch", "clip", "base"],
        action="append",
        help="default: all but base",
    )
    command.add_argument("--out", type=Path, help="train: folder of the weights (default: inside the package)")
    text = "train: conditions dataset to train the VAE, its decoder and the parser on"
    command.add_argument("--dataset", metavar="STAGE[/FINGERPRINT]|URI", help=text)
    command.add_argument("--photos", type=Path, metavar="DIR", help="measure: photographs to reconstruct")
    command.add_argument("--sheet", type=Path, metavar="PNG", help="measure: contact sheet to write")


def _add_recipe(command: argparse.ArgumentParser) -> None:
    command.add_argument("--recipe", default="demo", help="name or path of a recipe (default: demo)")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one recipe key")


def _set_up_logging() -> None:
    """Writes our own log to stderr, and silences libraries unless their environment variables say otherwise."""
    from mmface.config.environment import quiet_libraries

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for name in ("flows", "ray_jobs", "mmface", "serve"):
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.INFO)
    quiet_libraries()
    for name, value in {
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "flows,ray_jobs,mmface",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # progress comes from a thread outside the flow
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "DIFFUSERS_VERBOSITY": "error",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }.items():
        os.environ.setdefault(name, value)


def _retrain(arguments: argparse.Namespace) -> int:
    from flows.steps.preflight import check, check_key
    from mmface.bundles.weights import pin_start
    from mmface.config.load import load_recipe
    from mmface.errors import InputError, ServiceError
    from mmface.store.reach import dashboard_address

    if (arguments.masks or arguments.captions) and not arguments.images:
        raise InputError("missing; --masks and --captions need it", field="--images")
    if arguments.on == "local":
        os.environ.pop("RAY_ADDRESS", None)
    if arguments.on == "cluster" and dashboard_address() is None:
        raise ServiceError("set it to the dashboard of a Ray cluster, such as http://head:8265", field="RAY_ADDRESS")
    given = [f"sources={json.dumps([_photos(arguments)])}"] if arguments.images else []
    overrides = (*given, *arguments.set)
    recipe = pin_start(load_recipe(arguments.recipe, list(overrides)))
    check_key(recipe)
    check(recipe)
    from flows.steps.terminal import live_run

    with live_run(recipe):
        from flows.cluster.server import start_temporary_server

        start_temporary_server()
        from flows.retrain import retrain

        release = retrain(arguments.recipe, overrides, arguments.force)
    print(release.summary())
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    from mmface.config.load import load_recipe
    from mmface.store import home
    from serve.deploy.app import run

    run(load_recipe(arguments.recipe, arguments.set), blocking=True, home=home().uri)
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from flows.cli.operations.doctor import examine

    return examine()


def _portraits(arguments: argparse.Namespace) -> int:
    from mmface.data.portraits import write_collection

    write_collection(arguments.out, arguments.n, arguments.size, arguments.seed)
    print(arguments.out)
    return 0


def _zoo(arguments: argparse.Namespace) -> int:
    from mmface.zoo.commands import measure_zoo, train_zoo

    if arguments.action == "train":
        train_zoo(arguments.only, arguments.out, arguments.dataset)
    else:
        print(measure_zoo(arguments.photos, arguments.sheet))
    return 0


def _photos(arguments: argparse.Namespace) -> dict[str, str]:
    """The collection that the command line names, as a value of ``sources``."""
    places = {"images": arguments.images, "masks": arguments.masks, "captions": arguments.captions}
    return {"name": "photos"} | {name: _absolute(place) for name, place in places.items() if place}


def _absolute(place: str) -> str:
    return place if "://" in place else str(Path(place).expanduser().absolute())
