"""The HTTP service of the stack: waits until the registry has a champion, then serves it on the stack's Ray."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence

from mmface.bundles.registry import get_alias
from mmface.config import Recipe
from mmface.config.load import load_recipe
from mmface.errors import UnreachableError
from mmface.store import home

LOOK_SECONDS = 2.0

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    """Serves until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m flows.stack.champion")
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    recipe = load_recipe(given.recipe, given.set)
    wait_for_champion(recipe)
    from serve.deploy.app import run

    run(recipe, blocking=True, home=home().uri)


def wait_for_champion(recipe: Recipe) -> None:
    """Returns when the recipe's alias points to a version; retries while the registry does not answer."""
    log.info("waiting for a %s of %s", recipe.serve.alias, recipe.serve.model_name)
    while True:
        try:
            version = get_alias(recipe.serve.model_name, recipe.serve.alias)
            if version:
                log.info("serving version %s", version)
                return
        except UnreachableError as error:
            log.warning("%s", error)
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    main()
