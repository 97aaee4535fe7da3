"""Checks in a process of its own that a replica can load a registered version, before an alias moves to it (§8).

``python -m serve.deploy.warm`` runs beside the flow, or as a job on the cluster (:mod:`flows.steps.warm`).
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence

from mmface.config.environment import quiet_libraries
from mmface.errors import SAID, TRY_AGAIN, MMFaceError, UnreachableError
from mmface.store import Store

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    """Loads the version, which paints its preview, then writes the receipt.

    Raises:
        MMFaceError: the version cannot be served; see :meth:`serve.deploy.loader.Loader.load`.
    """
    parser = argparse.ArgumentParser(prog="python -m serve.deploy.warm")
    parser.add_argument("--recipe", required=True, help="name or path of the recipe")
    parser.add_argument("--home", required=True, help="folder or s3:// address of the receipt")
    parser.add_argument("--version", required=True, help="registered version of the recipe's serve.model_name")
    parser.add_argument(
        "--receipt", required=True, metavar="KEY", help="key of the file to write when the version can be served"
    )
    given = parser.parse_args(argv)

    from diffusers.utils.logging import disable_progress_bar

    from mmface.config.load import load_recipe
    from mmface.networks.components import accelerator
    from serve.deploy.loader import Loader

    disable_progress_bar()  # loading would fill the log with it
    settings, device = load_recipe(given.recipe).serve, accelerator()
    generator = Loader(settings, lambda *_: None, device).load(given.version)
    generator.engine.close()
    receipt = {"model": settings.model_name, "version": given.version, "device": device}
    Store(given.home).write(given.receipt, json.dumps(receipt).encode())
    log.info("warm: version %s of %s loads and paints on %s", given.version, settings.model_name, device)


def run_as_program() -> None:
    """Exits as jobs do: one line per error of ours, with code 2, or ``TRY_AGAIN`` if a service could not be reached."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for name in ("serve", "mmface"):
        logging.getLogger(name).setLevel(logging.INFO)
    quiet_libraries()
    try:
        main()
    except MMFaceError as error:
        print(f"{SAID}{error}", file=sys.stderr)
        sys.exit(TRY_AGAIN if isinstance(error, UnreachableError) else 2)


if __name__ == "__main__":
    run_as_program()
