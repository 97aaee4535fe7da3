"""Aliases of a registered model, and the only function that moves them (§8).

:mod:`mmface.bundles.moves` records the moves.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mmface.bundles.moves import CHAMPION, ROLLED_BACK_TAG, Kind, Move, alias_holders, read_past, record
from mmface.bundles.tracking import mlflow_errors, open_tracking
from mmface.errors import RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODEL = "mmface-dit"
MAX_WHY = 1000  # characters


def get_alias(name: str, alias: str) -> str | None:
    """The version that holds ``alias``; None if no version does."""
    client = open_tracking()
    with mlflow_errors():
        return alias_holders(client, name).get(alias)


def require_holder(name: str, alias: str = CHAMPION) -> str:
    """The version that holds ``alias``. Raises RegistryError if no version does."""
    current = get_alias(name, alias)
    if current is None:
        raise RegistryError(f"{name} has no {alias} to roll back; see mmface runs", field="alias")
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
    compete hold a lease; ``fence`` checks in the store that the caller still holds it.

    Args:
        to: the version that gets the alias; None deletes the alias.
        expected: the version that must hold it now; None if no version must hold it.
        who: the process that acts; user and machine are added.
        fence: raises if this process may no longer move the alias.

    Raises:
        RegistryError: the version does not exist, or the version ``expected`` does not hold the alias.
    """
    client = open_tracking()
    if to is not None:
        require_version(client, name, to)
    past = read_past(name, alias)
    number = 1 + max((one.number for one in past.moves), default=0)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    move = Move(number, expected, to, kind, ", ".join(filter(None, (_user(), who))), why[:MAX_WHY], when)
    fence()
    with mlflow_errors():
        current = alias_holders(client, name).get(alias)
    if current != expected:
        held = f"version {current} is" if current else "no version is"
        message = f"{held} now {alias} of {name}, not {expected or 'none'}; nothing was moved, see mmface runs"
        raise RegistryError(message, field="alias")
    if current == to:
        return
    with mlflow_errors():
        if to is None:
            client.delete_registered_model_alias(name, alias)
        else:
            client.set_registered_model_alias(name, alias, to)
            if to in past.rolled_back:  # an explicit move overrides an earlier rollback
                client.delete_model_version_tag(name, to, ROLLED_BACK_TAG)
        # Recorded after the move: the record of a move that failed would block promotions forever. A move whose
        # record is lost still shows as the origin of the next move.
        record(client, name, alias, move)


def set_alias(name: str, alias: str, version: str, why: str = "set") -> None:
    """Moves ``alias`` to ``version`` from any holder, without a fence; for aliases that only one process moves."""
    move_alias(name, alias, version, expected=get_alias(name, alias), kind="set", why=why)


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
    fence()
    mark_rolled_back(name, current, alias)
    move_alias(name, alias, past.previous, expected=current, kind="rolled back", why=why, who=who, fence=fence)
    return past.previous


def mark_rolled_back(name: str, version: str, alias: str = CHAMPION) -> None:
    """Keeps schedules from promoting ``version`` again until a user moves the alias to it by hand."""
    client = open_tracking()
    with mlflow_errors():
        client.set_model_version_tag(name, version, ROLLED_BACK_TAG, alias)


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


def _user() -> str:
    """The user and the machine of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = f"uid {os.getuid()}"
    return f"{user} on {socket.gethostname()}"
