"""Promotion of a version: warm up, move the alias, confirm at the service, or revert (§8)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from flows.cluster.jobs import Job, save_recipe
from flows.cluster.runner import run_job
from flows.steps.champions import Turn, describe_champion, turn
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
    """Makes ``version`` the champion; only confirms it when it is champion already.

    After any failure or interrupt the previous champion is champion again, or no version if there was none.

    Args:
        warm: runs the job that loads the version as a replica does.
        confirm: tests the running service; raises when it does not answer with ``version``.

    Raises:
        MMFaceError: what failed, and which version is champion now.
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
            log.warning("version %s is not confirmed (%s); the previous champion is restored", version, error)
            mine.put_back(version, before, f"not confirmed: {error}", refused=isinstance(error, Exception))
            raise
    except MMFaceError as error:
        raise type(error)(_explain(mine.model, version, before, error), field=error.field) from error


def promote_by_hand(recipe: str, overrides: tuple[str, ...], version: str, why: str) -> str | None:
    """``mmface promote``: skips the gate, not the warm-up; returns the previous champion, if there was one.

    Raises:
        MMFaceError: the reason is empty, there is no such version, or it cannot be served.
    """
    if not why.strip():
        raise InputError("is empty; give the reason, which is recorded with the move", field="--why")
    resolved, place = load_recipe(recipe, list(overrides)), home()
    model = resolved.serve.model_name
    registry.find_version(model, version)
    run = Run(resolved, save_recipe(place, resolved), place, None, "")
    with turn(place, model) as mine:
        before = mine.champion()
        promote(run, mine, version, why, run_job, lambda: None)
    return before


def _explain(model: str, version: str, before: str | None, error: MMFaceError) -> str:
    if before == version:
        return f"version {version} is the champion, but was not confirmed: {error.message}; mmface rollback {version}"
    return f"version {version} does not become champion: {error.message}; {describe_champion(model)}"
