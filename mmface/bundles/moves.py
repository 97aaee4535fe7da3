"""Records the moves of an alias: which version holds it, and which versions held it before (§8).

Every move is a tag ``mmface.moves.<alias>.<number>`` with a :class:`Move` as JSON. The tag belongs to the version that
got the alias, or to the version that lost it if no version got it. Every MLflow backend stores tags, and MLflow's page
shows them. Moves made by hand on that page are not recorded, but the ``origin`` of the next recorded move shows them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from mmface.bundles.tracking import mlflow_errors, open_tracking
from mmface.errors import RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, CHALLENGER = "champion", "challenger"
ROLLED_BACK_TAG = "mmface.rolled-back"  # on a version: the alias that was taken from it
PREVIOUS_TAG = "mmface.previous.{alias}"  # on a version: the holder before it; set by releases without recorded moves
MOVES_TAG = "mmface.moves.{alias}."

Kind = Literal["set", "promoted", "rolled back", "withdrawn"]


@dataclass(frozen=True)
class Move:
    """One move of an alias.

    Attributes:
        number: of the move, counted per alias.
        origin: the version that lost the alias; None if no version held it.
        to: the version that got it; None if the alias was deleted.
        kind: ``withdrawn`` reverts a promotion that was never confirmed.
        who: user, machine and process.
        when: UTC, ISO 8601, by the clock of that machine.
    """

    number: int
    origin: str | None
    to: str | None
    kind: Kind
    who: str
    why: str
    when: str


@dataclass(frozen=True)
class Past:
    """The history of an alias.

    Attributes:
        current: the version that holds it now.
        moves: every recorded move, oldest first.
        holders: versions that held it, oldest first; a version that held it twice occurs twice. Without promotions
            that were withdrawn.
        rolled_back: versions that an operator rolled back, or that the service refused.
    """

    current: str | None
    moves: tuple[Move, ...]
    holders: tuple[str, ...]
    rolled_back: frozenset[str]

    @property
    def previous(self) -> str | None:
        """The version that a rollback returns to: the last holder that is not current and was not rolled back."""
        fitting = (one for one in reversed(self.holders) if one != self.current and one not in self.rolled_back)
        return next(fitting, None)

    @property
    def former(self) -> list[str]:
        """Versions that held it, except the current one and those rolled back, newest first."""
        return sorted(set(self.holders) - self.rolled_back - {self.current}, key=int, reverse=True)

    def objection(self, version: str) -> str:
        """Why a schedule must not give the alias to ``version``; empty if it may."""
        if version == self.current:
            return ""
        if version in self.rolled_back:
            return f"version {version} was rolled back"
        return f"version {version} was champion before" if version in self.holders else ""


def read_past(name: str, alias: str = CHAMPION) -> Past:
    """The history of ``alias``; empty if the model was never registered."""
    client = open_tracking()
    with mlflow_errors():
        current = alias_holders(client, name).get(alias)
        found = client.search_model_versions(f"name = '{name}'")
    tags = {str(one.version): dict(one.tags) for one in found}
    moves = _moves(tags, alias)
    holders = [one for one in _replay(moves) if one in tags]
    rolled_back = frozenset(version for version, named in tags.items() if named.get(ROLLED_BACK_TAG) == alias)
    return Past(current, moves, tuple(holders), rolled_back)


def record(client: MlflowClient, name: str, alias: str, move: Move) -> None:
    """Records a move that was made."""
    key = f"{MOVES_TAG.format(alias=alias)}{move.number:05d}"
    client.set_model_version_tag(name, str(move.to or move.origin), key, json.dumps(asdict(move)))


def alias_holders(client: MlflowClient, name: str) -> dict[str, str]:
    """The version that holds each alias; empty for a model that was never registered."""
    from mlflow.exceptions import MlflowException

    try:
        held = client.get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}
    return {alias: str(version) for alias, version in held.items()}


def _moves(tags: Mapping[str, Mapping[str, str]], alias: str) -> tuple[Move, ...]:
    """All moves, oldest first; the first come from the tags of releases that stored only the previous holder."""
    start, before = MOVES_TAG.format(alias=alias), PREVIOUS_TAG.format(alias=alias)
    recorded = [
        _parse(version, key, text)
        for version, named in tags.items()
        for key, text in named.items()
        if key.startswith(start)
    ]
    earlier = [
        Move(0, named[before] or None, version, "set", "", "", "")
        for version, named in sorted(tags.items(), key=lambda one: int(one[0]))
        if before in named
    ]
    return (*earlier, *sorted(recorded, key=lambda one: one.number))


def _parse(version: str, key: str, text: str) -> Move:
    try:
        return Move(**json.loads(text))
    except (ValueError, TypeError):
        message = f"the tag {key} of version {version} does not hold a move: {text[:80]!r}; delete the tag in MLflow"
        raise RegistryError(message, field=key) from None


def _replay(moves: tuple[Move, ...]) -> list[str]:
    """Derives the versions that held the alias from its moves, oldest first."""
    holders: list[str] = []
    for move in moves:
        if move.origin and move.origin not in holders:  # moved by hand in MLflow, or a crash lost the record
            holders.append(move.origin)
        if move.kind == "withdrawn":
            holders.reverse()
            holders.remove(str(move.origin))
            holders.reverse()
        elif move.to:
            holders.append(move.to)
    return holders
