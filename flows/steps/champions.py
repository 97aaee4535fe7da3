"""Moves of the champion alias, one at a time: releases, manual promotions and rollbacks wait for each other (§8)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mmface.bundles import aliases, registry
from mmface.bundles.moves import CHALLENGER, CHAMPION, Kind, read_past
from mmface.errors import ServiceError
from mmface.store import Store
from mmface.store.leases import Lease, Owner, held

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Turn:
    """The right to move the champion of ``model``, held while this process owns the lease."""

    model: str
    lease: Lease

    def champion(self) -> str | None:
        """The present champion's version."""
        return registry.get_alias(self.model, CHAMPION)

    def move(self, to: str | None, *, expected: str | None, kind: Kind, why: str, alias: str = CHAMPION) -> None:
        """See :func:`mmface.bundles.aliases.move_alias`. Raises StageError when another process took the lease."""
        who, fence = str(self.lease.owner), self.lease.confirm
        aliases.move_alias(self.model, alias, to, expected=expected, kind=kind, why=why, who=who, fence=fence)
        log.info("%s: alias %s moved from %s to %s (%s)", self.model, alias, _named(expected), _named(to), why)

    def challenge(self, version: str) -> None:
        """Makes ``version`` the challenger unless it is or was champion, or was rolled back."""
        past, before = read_past(self.model), registry.get_alias(self.model, CHALLENGER)
        if version not in (past.current, before) and not past.objection(version):
            self.move(version, expected=before, kind="set", why="registered", alias=CHALLENGER)

    def put_back(self, version: str, before: str | None, why: str, *, refused: bool) -> None:
        """Reverts a promotion that was not confirmed: ``before`` is champion again, or no version.

        Args:
            refused: no scheduled run promotes ``version`` again; ignored when ``before`` is None.
        """
        if self.champion() == version:
            kind: Kind = "refused" if refused and before is not None else "withdrawn"
            self.move(before, expected=version, kind=kind, why=why)


@contextmanager
def turn(home: Store, model: str, flow_run: str = "", reads: Iterable[str] = ()) -> Iterator[Turn]:
    """Holds the lease on the champion of ``model``; waits until no other process holds it.

    Args:
        reads: URIs of datasets that must not be removed while the lease is held.
    """
    with held(home, f"release-{model}", Owner.this(flow_run, reads)) as lease:
        assert lease is not None, "nothing else ends the wait"
        yield Turn(model, lease)


def roll_back(home: Store, model: str, version: str | None, why: str, flow_run: str = "") -> tuple[str, str]:
    """Moves the alias from ``version`` back to the previous champion; returns both versions.

    Args:
        version: by default the champion at the time of the call. A version that a release promotes while this waits
            for the lease is not rolled back.

    Raises:
        RegistryError: there is no champion, no champion before it, or the champion is not ``version``.
    """
    removed = version or aliases.require_holder(model)
    with turn(home, model, flow_run) as mine:
        who, fence = str(mine.lease.owner), mine.lease.confirm
        back = aliases.rollback(model, version=removed, why=why, who=who, fence=fence)
    log.info("%s: version %s was rolled back, version %s is champion again (%s)", model, removed, back, why)
    return removed, back


def describe_champion(model: str) -> str:
    """Which version is champion, as the end of a message."""
    try:
        current = registry.get_alias(model, CHAMPION)
    except ServiceError as error:
        return f"the registry does not say which version is champion ({error.message}); see mmface models list"
    return f"champion stays version {current}" if current else "there is no champion"


def _named(version: str | None) -> str:
    return f"version {version}" if version else "no version"
