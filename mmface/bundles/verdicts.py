"""Records what the gate decided about a version, as tags of the version (§8).

The tags are ``mmface.gate.verdict``, ``mmface.gate.reason`` and ``mmface.gate.decision``. MLflow limits the length of a
tag's value: 100,000 characters today, 5,000 in older servers, 65,535 bytes in MySQL. So a longer decision is cut into
pieces, and the further pieces are ``mmface.gate.decision.2`` and so on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Literal, get_args

from mmface.bundles.tracking import mlflow_errors, open_tracking
from mmface.errors import RegistryError

VERDICT_TAG, REASON_TAG, DECISION_TAG = "mmface.gate.verdict", "mmface.gate.reason", "mmface.gate.decision"
MAX_TAG = 5000  # characters
FORCE = "mmface models promote {version} --force --why TEXT promotes it anyway"

Verdict = Literal["passed", "rejected", "not decided"]
PASSED: Verdict = "passed"


@dataclass(frozen=True)
class Recorded:
    """The recorded decision of the gate; ``decision`` is JSON."""

    verdict: str
    reason: str
    decision: str


def record_decision(model: str, version: str, verdict: Verdict, reason: str, decision_json: str) -> None:
    """Records the decision about a version; replaces an earlier one.

    The verdict is written last and an earlier verdict is deleted first: a version whose recording was interrupted
    counts as one that the gate never saw.

    Raises:
        RegistryError: there is no such version.
    """
    assert verdict in get_args(Verdict), verdict
    client = open_tracking()
    cut = reason if len(reason) <= MAX_TAG else f"{reason[: MAX_TAG - 2]} …"
    wanted = dict(_pieces(decision_json)) | {REASON_TAG: cut, VERDICT_TAG: verdict}
    with mlflow_errors():
        before = dict(client.get_model_version(model, version).tags)
        surplus = [key for key in _piece_keys(before) if key not in wanted]
        if not surplus and wanted.items() <= before.items():
            return
        client.delete_model_version_tag(model, version, VERDICT_TAG)
        for key in surplus:
            client.delete_model_version_tag(model, version, key)
        for key, value in wanted.items():
            client.set_model_version_tag(model, version, key, value)


def read_decision(model: str, version: str) -> Recorded | None:
    """The recorded decision about a version; None if the gate never decided, or before decisions were recorded.

    Raises:
        RegistryError: there is no such version.
    """
    client = open_tracking()
    with mlflow_errors():
        return decision_of(client.get_model_version(model, version).tags)


def decision_of(tags: Mapping[str, str]) -> Recorded | None:
    """The decision in the tags of a version; None without one."""
    if VERDICT_TAG not in tags:
        return None
    decision = "".join(tags[key] for key in _piece_keys(tags))
    return Recorded(tags[VERDICT_TAG], tags.get(REASON_TAG, ""), decision)


def require_passed(model: str, version: str) -> None:
    """Raises RegistryError unless the gate passed the version; says what the gate decided and how to promote anyway."""
    found, force = read_decision(model, version), FORCE.format(version=version)
    if found is None:
        why = "an earlier release registered it, or its retraining ended before the gate"
        message = f"no decision of the gate is recorded for version {version} of {model}: {why}; {force}"
        raise RegistryError(message, field=VERDICT_TAG)
    if found.verdict != PASSED:
        said = "rejected" if found.verdict == "rejected" else "did not decide about"
        message = f"the gate {said} version {version} of {model}: {found.reason}; {force}"
        raise RegistryError(message, field=VERDICT_TAG)


def _pieces(decision: str) -> Iterator[tuple[str, str]]:
    for start, key in zip(range(0, max(len(decision), 1), MAX_TAG), _keys(), strict=False):
        yield key, decision[start : start + MAX_TAG]


def _piece_keys(tags: Mapping[str, str]) -> list[str]:
    return list(takewhile(tags.__contains__, _keys()))


def _keys() -> Iterator[str]:
    yield DECISION_TAG
    yield from (f"{DECISION_TAG}.{number}" for number in count(2))
