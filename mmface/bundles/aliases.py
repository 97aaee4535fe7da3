"""Aliases of a registered model, and the only function that moves them (§8).

:mod:`mmface.bundles.moves` records the moves.
"""

from __future__ import annotations

import getpass
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mmface.bundles.moves import (
    CHAMPION,
    CHOSEN,
    OUTSIDE,
    PREVIOUS,
    ROLLED_BACK_TAG,
    TAKEN,
    Kind,
    Move,
    alias_holders,
    announce,
    forget,
    read_past,
    record,
    version_tags,
)
from mmface.bundles.tracking import mlflow_errors, open_tracking
from mmface.bundles.verdicts import require_passed
from mmface.errors import RegistryError, shown

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

MODEL = "mmface-dit"
MAX_WHY = 1000  # characters
FOUND = "found by the next move; MLflow does not know who made it"


def get_alias(name: str, alias: str) -> str | None:
    """The version that holds ``alias``; None if no version does."""
    client = open_tracking()
    with mlflow_errors():
        return alias_holders(client, name).get(alias)


def require_holder(name: str, alias: str = CHAMPION) -> str:
    """The version that holds ``alias``. Raises RegistryError if no version does."""
    current = get_alias(name, alias)
    if current is None:
        raise RegistryError(f"{name} has no {alias} to roll back; see mmface models list", field="alias")
    return current


def move_alias(
    name: str,
    alias: str,
    to: str | None,
    *,
    expected: str | None,
    kind: Kind,
    why: str,
    who: str = "",
    fence: Callable[[], None] = lambda: None,
) -> None:
    """Moves ``alias`` from the version ``expected`` to ``to`` and records the move. Does nothing if ``to`` holds it.

    MLflow cannot write an alias conditionally. So the current holder is read right before the write, and callers that
    compete hold a lease; ``fence`` checks in the store that the caller still holds it. The move is announced before it
    is made and recorded after it: the next call completes a move whose process was killed in between. A move made on
    MLflow's own page is recorded first, as such. After a move of ``champion``, ``previous`` moves to the version that
    a rollback returns to.

    Args:
        to: the version that gets the alias; None deletes the alias.
        expected: the version that must hold it now; None if no version must hold it.
        kind: ``promoted`` to ``champion`` asks for a version that the gate passed.
        who: the process that acts; user and machine are added.
        fence: raises if this process may no longer move the alias.

    Raises:
        RegistryError: the version does not exist, the gate has not passed it, or the version ``expected`` does not hold
            the alias.
    """
    client = open_tracking()
    if to is not None:
        require_version(client, name, to)
        if alias == CHAMPION:
            assert kind not in ("set", OUTSIDE), "a champion is promoted, forced or restored"
            if kind == "promoted":
                require_passed(name, to)
    _Mover(client, name, ", ".join(filter(None, (_user(), who))), fence).move(alias, to, expected, kind, why)


@dataclass(frozen=True)
class _Mover:
    """Moves aliases of one model for one process."""

    client: MlflowClient
    name: str
    who: str
    fence: Callable[[], None]

    def move(self, alias: str, to: str | None, expected: str | None, kind: Kind, why: str) -> None:
        self.settle(alias)
        past = read_past(self.name, alias)
        self.require(alias, past.current, expected)
        if to == expected:
            return
        one = Move(past.next_number, expected, to, kind, self.who, shown(why)[:MAX_WHY], _now())
        with mlflow_errors():
            announce(self.client, self.name, alias, one)
            self.fence()
            current = alias_holders(self.client, self.name).get(alias)
            if current != expected:
                forget(self.client, self.name, alias)
                self.require(alias, current, expected)
            if to is None:
                self.client.delete_registered_model_alias(self.name, alias)
            else:
                self.client.set_registered_model_alias(self.name, alias, to)
        self.finish(alias, one)

    def settle(self, alias: str) -> None:
        """Completes the record: of a move whose process was killed, and of a move outside mmface."""
        self.fence()
        past = read_past(self.name, alias)
        if past.begun is not None:
            if past.begun in past.moves:
                self.finish(alias, past.begun)
            else:
                log.warning("%s: %s", self.name, interrupted(alias, past.begun))
                with mlflow_errors():
                    forget(self.client, self.name, alias)
        if not past.recorded:
            one = Move(past.next_number, past.last, past.current, OUTSIDE, "", FOUND, _now())
            log.warning("%s: alias %s was moved from %s to %s outside mmface", self.name, alias, one.origin, one.to)
            with mlflow_errors():
                record(self.client, self.name, alias, one)

    def finish(self, alias: str, move: Move) -> None:
        """Does what follows a move; can be repeated. The announcement goes last."""
        with mlflow_errors():
            tags = version_tags(self.client, self.name)
            if move.kind in TAKEN and move.origin in tags:
                self.client.set_model_version_tag(self.name, move.origin, ROLLED_BACK_TAG, alias)
            # An explicit move overrides an earlier rollback.
            if move.kind in CHOSEN and tags.get(str(move.to), {}).get(ROLLED_BACK_TAG) == alias:
                self.client.delete_model_version_tag(self.name, str(move.to), ROLLED_BACK_TAG)
            record(self.client, self.name, alias, move)
        if alias == CHAMPION:
            self.follow()
        with mlflow_errors():
            forget(self.client, self.name, alias)

    def follow(self) -> None:
        """Moves ``previous`` to the version that a rollback of the champion returns to."""
        past, held = read_past(self.name, CHAMPION), get_alias(self.name, PREVIOUS)
        if held != past.previous:
            why = f"champion is version {past.current}" if past.current else "there is no champion"
            self.move(PREVIOUS, past.previous, held, "follows champion", why)

    def require(self, alias: str, current: str | None, expected: str | None) -> None:
        if current != expected:
            held = f"version {current} is" if current else "no version is"
            message = f"{held} now {alias} of {self.name}, not {expected or 'none'}"
            raise RegistryError(f"{message}; nothing was moved, see mmface models list", field="alias")


def interrupted(alias: str, move: Move) -> str:
    """Says that a move was announced but not made."""
    by = f"{move.who}, {move.when}"
    return f"the move of {alias} from {move.origin} to {move.to} ({by}) was interrupted before it was made"


def set_alias(name: str, alias: str, version: str, why: str = "set") -> None:
    """Moves ``alias`` to ``version`` from any holder, without a fence; for aliases that only one process moves.

    A champion that is set is recorded as forced, since the gate did not decide.
    """
    kind: Kind = "forced" if alias == CHAMPION else "set"
    move_alias(name, alias, version, expected=get_alias(name, alias), kind=kind, why=why)


def rollback(
    name: str = MODEL,
    alias: str = CHAMPION,
    *,
    version: str | None = None,
    why: str = "rolled back",
    who: str = "",
    fence: Callable[[], None] = lambda: None,
) -> str:
    """Moves ``alias`` from ``version`` back to the previous holder; returns the previous holder.

    No schedule promotes ``version`` again until a user moves the alias to it by hand.

    Args:
        version: the version that must hold the alias now; by default any.

    Raises:
        RegistryError: no version holds the alias, another version holds it, or there is no previous holder.
    """
    current, past = require_holder(name, alias), read_past(name, alias)
    if version not in (None, current):
        message = f"version {current} is now {alias} of {name}, not {version}; nothing was rolled back"
        raise RegistryError(message, field="version")
    if past.previous is None:
        message = f"version {current} is the first {alias} of {name}: there is no earlier version to roll back to"
        raise RegistryError(message, field="alias")
    move_alias(name, alias, past.previous, expected=current, kind="rolled back", why=why, who=who, fence=fence)
    return past.previous


def require_version(client: MlflowClient, name: str, version: str) -> None:
    """Raises RegistryError with the existing versions if ``version`` does not exist."""
    try:
        with mlflow_errors():
            client.get_model_version(name, version)
    except RegistryError:
        message = f"{name} has no version {version}; existing versions: {known_versions(client, name)}"
        raise RegistryError(message, field="version") from None


def known_versions(client: MlflowClient, name: str) -> str:
    """All versions as text, newest first."""
    with mlflow_errors():
        found = [int(one.version) for one in client.search_model_versions(f"name = '{name}'")]
    return ", ".join(str(one) for one in sorted(found, reverse=True)) or "none yet"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _user() -> str:
    """The user and the machine of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = f"uid {os.getuid()}"
    return f"{user} on {socket.gethostname()}"
