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
from mmface.bundles.moves import CHAMPION
from mmface.bundles.verdicts import require_passed
from mmface.config.load import load_recipe
from mmface.errors import InputError, MMFaceError, RegistryError
from mmface.store import home

log = logging.getLogger(__name__)


def promote(
    run: Run,
    mine: Turn,
    version: str,
    why: str,
    warm: Callable[[Job], object],
    confirm: Callable[[], object],
    *,
    forced: bool = False,
) -> None:
    """Makes ``version`` the champion; only confirms it when it is champion already.

    After any failure or interrupt the previous champion is champion again, or no version if there was none.

    Args:
        warm: runs the job that loads the version as a replica does.
        confirm: tests the running service; raises when it does not answer with ``version``.
        forced: promote a version that the gate has not passed; recorded as forced.

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
            mine.move(version, expected=before, kind="forced" if forced else "promoted", why=why)
            confirm()
        except BaseException as error:
            log.warning("version %s is not confirmed (%s); the previous champion is restored", version, error)
            mine.put_back(version, before, f"not confirmed: {error}", refused=isinstance(error, Exception))
            raise
    except MMFaceError as error:
        raise type(error)(_explain(mine.model, version, before, error), field=error.field) from error


def promote_by_hand(
    recipe: str, overrides: tuple[str, ...], alias_or_version: str, why: str, *, forced: bool = False
) -> tuple[str, str | None]:
    """``mmface models promote``: the gate must have passed the version, unless ``forced``; the warm-up runs anyway.

    Returns:
        The version, and the previous champion, if there was one: the same version if it was champion already.

    Raises:
        RegistryError: there is no such version, the gate has not passed it, or another version became champion while
            this waited for the lease.
        MMFaceError: the reason is empty, or the version cannot be served.
    """
    if not why.strip():
        raise InputError("is empty; give the reason, which is recorded with the move", field="--why")
    resolved, place = load_recipe(recipe, list(overrides)), home()
    model = resolved.serve.model_name
    version, _ = registry.find_version(model, alias_or_version)
    if not forced:
        require_passed(model, version)
    before = registry.get_alias(model, CHAMPION)
    run = Run(resolved, save_recipe(place, resolved), place, None, "")
    with turn(place, model) as mine:
        now = mine.champion()
        if now != before:
            message = f"version {now} became champion of {model} while this waited" if now else "the champion is gone"
            raise RegistryError(f"{message}; nothing was moved, see mmface models list", field="alias")
        promote(run, mine, version, why, run_job, lambda: None, forced=forced)
    return version, before


def _explain(model: str, version: str, before: str | None, error: MMFaceError) -> str:
    if before == version:
        remedy = f"mmface models rollback {version} --why TEXT"
        return f"version {version} is the champion, but was not confirmed: {error.message}; {remedy}"
    return f"version {version} does not become champion: {error.message}; {describe_champion(model)}"
