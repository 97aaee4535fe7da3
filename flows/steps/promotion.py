"""How a version becomes champion: warmed up, given the alias, confirmed at the service, or taken back (§8)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from flows.cluster.jobs import Job, run_job, save_recipe
from flows.steps.champions import Turn, stays, turn
from flows.steps.line import Run
from flows.steps.warm import warm_up
from mmface.bundles import registry
from mmface.config.load import load_recipe
from mmface.errors import InputError, MMFaceError
from mmface.store import home

log = logging.getLogger(__name__)


def promote(
    run: Run, mine: Turn, version: str, why: str, warm: Callable[[Job], object], confirm: Callable[[], object]
) -> None:
    """Makes ``version`` the champion; when it is already, only confirms it.

    Whatever goes wrong, an interrupt too, leaves or puts back the champion before it; nobody, if there was none.

    Args:
        warm: runs the job that loads the version as a replica does.
        confirm: tries the running service; raises when it does not answer with the version.

    Raises:
        MMFaceError: what went wrong, and who is champion now.
    """
    before = mine.champion()
    try:
        if before == version:
            confirm()
            return
        warm(warm_up(run, version))
        try:
            mine.move(version, expected=before, kind="promoted", why=why)
            confirm()
        except BaseException as error:
            log.warning("version %s is not confirmed (%s); the champion before it is put back", version, error)
            mine.put_back(version, before, f"not confirmed: {error}", refused=isinstance(error, Exception))
            raise
    except MMFaceError as error:
        raise type(error)(_told(mine.model, version, before, error), field=error.field) from error


def promote_by_hand(recipe: str, overrides: tuple[str, ...], version: str, why: str) -> str | None:
    """``mmface promote``: past the gate, not past the warm-up; returns the champion before, if there was one.

    Raises:
        MMFaceError: no reason is given, there is no such version, or it cannot be served.
    """
    if not why.strip():
        raise InputError("say why: it is recorded with the move", field="--why")
    resolved, place = load_recipe(recipe, list(overrides)), home()
    model = resolved.serve.model_name
    registry.find_version(model, version)
    run = Run(resolved, save_recipe(place, resolved), place, None, "")
    with turn(place, model) as mine:
        before = mine.champion()
        promote(run, mine, version, why, run_job, lambda: None)
    return before


def _told(model: str, version: str, before: str | None, error: MMFaceError) -> str:
    if before == version:
        return f"version {version} is the champion, but was not confirmed: {error.message}; mmface rollback {version}"
    return f"version {version} does not become champion: {error.message}; {stays(model)}"
