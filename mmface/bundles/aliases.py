"""Aliases of a registered model, and the one function that moves them (§8).

:mod:`mmface.bundles.moves` keeps the record.
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
    """The version that holds ``alias``, None when nobody does."""
    client = open_tracking()
    with mlflow_errors():
        return alias_holders(client, name).get(alias)


def require_holder(name: str, alias: str = CHAMPION) -> str:
    """The version that holds ``alias``. Raises RegistryError when nobody does."""
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
    """Moves ``alias`` from the version ``expected`` to ``to`` and records the move; nothing when ``to`` holds it.

    MLflow has no conditional write of an alias. What may have changed is therefore asked right before the write, and
    callers who compete hold one lease; ``fence`` asks the store whether it is still theirs.

    Args:
        to: None takes the alias away.
        expected: the version that must hold it now; None: nobody does.
        who: what acts, besides user and machine.
        fence: raises when this process must not move it any more.

    Raises:
        RegistryError: there is no such version, or the alias is not where it was expected.
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
        message = f"{held} {alias} of {name} by now, not {expected or 'none'}; nothing was moved, see mmface runs"
        raise RegistryError(message, field="alias")
    if current == to:
        return
    with mlflow_errors():
        if to is None:
            client.delete_registered_model_alias(name, alias)
        else:
            client.set_registered_model_alias(name, alias, to)
            if to in past.rolled_back:  # who moves it here has decided otherwise
                client.delete_model_version_tag(name, to, ROLLED_BACK_TAG)
        # After the move: a record of what never happened would keep a version from being promoted for ever. A move
        # without its record is seen all the same, as the origin of the next one.
        record(client, name, alias, move)


def set_alias(name: str, alias: str, version: str, why: str = "set") -> None:
    """Moves ``alias`` to ``version`` from wherever it is, without a fence: for aliases that nobody competes for."""
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
    """Takes ``alias`` from ``version``, gives it back to the version that held it before, and returns that one.

    Args:
        version: what must hold the alias; by default whatever does.

    Raises:
        RegistryError: nobody holds the alias, another version does, or nobody held it before.
    """
    current, past = require_holder(name, alias), read_past(name, alias)
    if version not in (None, current):
        message = f"version {current} is {alias} of {name} by now, not {version}; nothing was rolled back"
        raise RegistryError(message, field="version")
    if past.previous is None:
        message = f"version {current} is the first {alias} of {name}: there is none before it"
        raise RegistryError(message, field="alias")
    fence()
    mark_rolled_back(name, current, alias)
    move_alias(name, alias, past.previous, expected=current, kind="rolled back", why=why, who=who, fence=fence)
    return past.previous


def mark_rolled_back(name: str, version: str, alias: str = CHAMPION) -> None:
    """Keeps schedules from promoting ``version`` again, until somebody moves an alias to it by hand."""
    client = open_tracking()
    with mlflow_errors():
        client.set_model_version_tag(name, version, ROLLED_BACK_TAG, alias)


def require_version(client: MlflowClient, name: str, version: str) -> None:
    """Raises RegistryError, which names the versions that there are, when ``version`` is none of them."""
    try:
        with mlflow_errors():
            client.get_model_version(name, version)
    except RegistryError:
        message = f"{name} has no version {version}; there are {known_versions(client, name)}"
        raise RegistryError(message, field="version") from None


def known_versions(client: MlflowClient, name: str) -> str:
    """Every version, newest first, in words."""
    with mlflow_errors():
        found = [int(one.version) for one in client.search_model_versions(f"name = '{name}'")]
    return ", ".join(str(one) for one in sorted(found, reverse=True)) or "none yet"


def _user() -> str:
    """Who runs this process, and where."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"uid {os.getuid()}"
    return f"{user} on {socket.gethostname()}"
