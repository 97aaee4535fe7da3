"""Records the moves of an alias: which version holds it, and which versions held it before (§8).

Every move is a tag ``mmface.moves.<alias>.<number>`` with a :class:`Move` as JSON. The tag belongs to the version that
got the alias, or to the version that lost it if no version got it. Every MLflow backend stores tags, and MLflow's page
shows them. A move is announced before it is made, in the tag ``mmface.moving.<alias>`` of the model, so that the record
of a move is complete even if its process is killed. Moves made by hand on MLflow's page have no record: the alias is
then not where the last record says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from mmface.bundles.tracking import mlflow_errors, open_tracking
from mmface.bundles.verdicts import PASSED, VERDICT_TAG
from mmface.errors import RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
ROLLED_BACK_TAG = "mmface.rolled-back"  # on a version: the alias that was taken from it
PREVIOUS_TAG = "mmface.previous.{alias}"  # on a version: the holder before it; set by releases without recorded moves
MOVES_TAG = "mmface.moves.{alias}."
MOVING_TAG = "mmface.moving.{alias}"  # on the model: the move that has begun

Kind = Literal[
    "set", "promoted", "forced", "rolled back", "withdrawn", "refused", "follows champion", "moved outside mmface"
]
OUTSIDE: Kind = "moved outside mmface"
CHOSEN = ("set", "promoted", "forced")  # the version was chosen; the others restore or follow
REVERTED = ("withdrawn", "refused")
TAKEN = ("rolled back", "refused")  # no schedule promotes the version that lost the alias


@dataclass(frozen=True)
class Move:
    """One move of an alias.

    Attributes:
        number: of the move, counted per alias.
        origin: the version that lost the alias; None if no version held it.
        to: the version that got it; None if the alias was deleted.
        kind: ``forced`` is a promotion past the gate; ``withdrawn`` reverts a promotion that was never confirmed,
            ``refused`` one that the service refused.
        who: user, machine and process; empty for a move outside mmface.
        when: UTC, ISO 8601, by the clock of that machine; of a move outside mmface: when it was found.
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
        moves: every move, oldest first, including one that was made but whose process was killed before it recorded it.
        holders: versions that held it, oldest first; a version that held it twice occurs twice. Without promotions
            that were withdrawn.
        rolled_back: versions that an operator rolled back, or that the service refused.
        ungated: versions that got it only outside mmface, and that the gate has not passed: no rollback returns there.
        begun: the announced move, if its process has not finished it.
    """

    current: str | None
    moves: tuple[Move, ...]
    holders: tuple[str, ...]
    rolled_back: frozenset[str]
    ungated: frozenset[str] = frozenset()
    begun: Move | None = None

    @property
    def previous(self) -> str | None:
        """The version that a rollback returns to: the last holder that is not current and was not rolled back."""
        barred = self.rolled_back | self.ungated | {self.current}
        return next((one for one in reversed(self.holders) if one not in barred), None)

    @property
    def former(self) -> list[str]:
        """Versions that held it, except the current one and those rolled back, newest first."""
        return sorted(set(self.holders) - self.rolled_back - self.ungated - {self.current}, key=int, reverse=True)

    @property
    def last(self) -> str | None:
        """The version that holds the alias by the last move."""
        return self.moves[-1].to if self.moves else None

    @property
    def recorded(self) -> bool:
        """Whether the last move explains where the alias is; False after a move outside mmface."""
        if self.moves and not self.moves[-1].number:  # releases without recorded moves did not record rollbacks either
            return self.current in (None, *self.holders)
        return self.current == self.last

    @property
    def next_number(self) -> int:
        """The number of the next move."""
        return 1 + max((one.number for one in self.moves), default=0)

    def objection(self, version: str) -> str:
        """Why a schedule must not give the alias to ``version``; empty if it may."""
        if version == self.current:
            return ""
        if version in self.rolled_back:
            return f"version {version} was rolled back"
        return f"version {version} was champion before" if version in self.holders else ""


class Held(NamedTuple):
    """The version that holds each alias of a model, and the model's tags."""

    aliases: dict[str, str]
    tags: dict[str, str]


def read_past(name: str, alias: str = CHAMPION) -> Past:
    """The history of ``alias``; empty if the model was never registered."""
    client = open_tracking()
    with mlflow_errors():
        while True:
            held = read_held(client, name)
            past = _past(held, version_tags(client, name), alias)
            # Two requests are not one snapshot: a move between them looks like a move without a record.
            if past.recorded or read_held(client, name) == held:
                return past


def version_tags(client: MlflowClient, name: str) -> dict[str, dict[str, str]]:
    """The tags of every version."""
    return {str(one.version): dict(one.tags) for one in client.search_model_versions(f"name = '{name}'")}


def alias_holders(client: MlflowClient, name: str) -> dict[str, str]:
    """The version that holds each alias; empty for a model that was never registered."""
    return read_held(client, name).aliases


def read_held(client: MlflowClient, name: str) -> Held:
    """Who holds what, read at once; empty for a model that was never registered."""
    from mlflow.exceptions import MlflowException

    try:
        model = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return Held({}, {})
    return Held({alias: str(version) for alias, version in model.aliases.items()}, dict(model.tags))


def announce(client: MlflowClient, name: str, alias: str, move: Move) -> None:
    """Records a move that is about to be made."""
    client.set_registered_model_tag(name, MOVING_TAG.format(alias=alias), _written(move))


def record(client: MlflowClient, name: str, alias: str, move: Move) -> None:
    """Records a move that was made."""
    key = f"{MOVES_TAG.format(alias=alias)}{move.number:05d}"
    client.set_model_version_tag(name, str(move.to or move.origin), key, _written(move))


def forget(client: MlflowClient, name: str, alias: str) -> None:
    """Removes the announcement of a move that is recorded, or that was not made."""
    client.delete_registered_model_tag(name, MOVING_TAG.format(alias=alias))


def _past(held: Held, tags: Mapping[str, Mapping[str, str]], alias: str) -> Past:
    current, key = held.aliases.get(alias), MOVING_TAG.format(alias=alias)
    moves = _moves(tags, alias)
    rolled_back = {str(version) for version, named in tags.items() if named.get(ROLLED_BACK_TAG) == alias}
    begun = _parse(f"{key} of the model", held.tags[key]) if key in held.tags else None
    if begun is not None and begun.to == current and begun not in moves:  # made, but its process was killed
        moves = (*moves, begun)
        rolled_back |= {str(begun.origin)} & tags.keys() if begun.kind in TAKEN else set()
        rolled_back -= {str(begun.to)} if begun.kind in CHOSEN else set()
    outside = {str(one.to) for one in moves if one.kind == OUTSIDE}
    outside -= {str(one.to) for one in moves if one.kind != OUTSIDE}
    passed = {version for version, named in tags.items() if named.get(VERDICT_TAG) == PASSED}
    holders = tuple(one for one in _replay(moves) if one in tags)
    return Past(current, moves, holders, frozenset(rolled_back), frozenset(outside & tags.keys() - passed), begun)


def _moves(tags: Mapping[str, Mapping[str, str]], alias: str) -> tuple[Move, ...]:
    """All moves, oldest first; the first come from the tags of releases that stored only the previous holder."""
    start, before = MOVES_TAG.format(alias=alias), PREVIOUS_TAG.format(alias=alias)
    recorded = [
        _parse(f"{key} of version {version}", text)
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


def _written(move: Move) -> str:
    return json.dumps(asdict(move), ensure_ascii=False)  # escapes could exceed the limit of a tag


def _parse(key: str, text: str) -> Move:
    try:
        return Move(**json.loads(text))
    except (ValueError, TypeError):
        message = f"the tag {key} does not hold a move: {text[:80]!r}; delete the tag in MLflow"
        raise RegistryError(message, field=key.partition(" ")[0]) from None


def _replay(moves: tuple[Move, ...]) -> list[str]:
    """Derives the versions that held the alias from its moves, oldest first."""
    holders: list[str] = []
    for move in moves:
        if move.origin and move.origin not in holders:  # the record of an earlier move was lost
            holders.append(move.origin)
        if move.kind in REVERTED:
            holders.reverse()
            holders.remove(str(move.origin))
            holders.reverse()
        elif move.to:
            holders.append(move.to)
    return holders
