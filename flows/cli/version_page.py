"""The text of ``mmface models show``, and remarks on aliases whose place no recorded move explains."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from flows.cli.tables import table
from mmface.bundles import registry
from mmface.bundles.aliases import interrupted
from mmface.bundles.moves import CHALLENGER, CHAMPION, PREVIOUS, Past, alias_holders, read_past
from mmface.bundles.tracking import mlflow_errors, open_tracking
from mmface.bundles.verdicts import Recorded, read_decision
from mmface.errors import RegistryError
from mmface.evaluate.figures import Figure

FIGURES, METRICS, LINEAGE = "figures.json", "metrics.json", "lineage.json"


def page(name: str, alias_or_version: str) -> str:
    """Everything about one version: figures, the gate's decision, lineage, moves.

    Raises:
        RegistryError: there is no such version, or a file of its bundle is missing or damaged.
    """
    version, _ = registry.find_version(name, alias_or_version)
    one = next(one for one in registry.list_versions(name) if one.version == version)
    parts = [
        f"{name} version {version}",
        table(
            ("ALIASES", "CREATED", "RUN", "BUNDLE"),
            [(", ".join(one.aliases) or "none", _local(one.created), one.run_id, one.fingerprint[:16])],
        ),
        _decision(read_decision(name, version)),
        _figures(name, version),
        _lineage(name, version),
        _moves(name, version),
    ]
    return "\n\n".join([*parts, *remarks(name)])


def remarks(name: str) -> Iterator[str]:
    """One line for each alias that was moved outside mmface, or whose last move was interrupted."""
    for alias, past in _pasts(name).items():
        if not past.recorded:
            now, last = _named(past.current), _named(past.last)
            yield f"{alias} was moved outside mmface: it is on {now}, the last recorded move put it on {last}"
        elif past.begun is not None and past.begun not in past.moves:
            yield interrupted(alias, past.begun)


def _pasts(name: str) -> dict[str, Past]:
    """The history of every alias, the champion's first."""
    with mlflow_errors():
        others = alias_holders(open_tracking(), name).keys() - {CHAMPION, CHALLENGER, PREVIOUS}
    return {alias: read_past(name, alias) for alias in (CHAMPION, CHALLENGER, PREVIOUS, *sorted(others))}


def _decision(found: Recorded | None) -> str:
    if found is None:
        return "GATE\nno decision is recorded"
    title = f"GATE\n{found.verdict}: {found.reason}"
    try:
        return f"{title}\n{json.dumps(json.loads(found.decision), indent=2, ensure_ascii=False)}"
    except ValueError:  # edited by hand
        return f"{title}\n{found.decision}"


def _figures(name: str, version: str) -> str:
    """The figures with their intervals; a bundle of an earlier release has only values."""
    if FIGURES not in registry.list_files(name, version):
        values: dict[str, float | None] = _json(name, version, METRICS)
        rows = [(metric, _number(value), "", "", "") for metric, value in sorted(values.items())]
    else:
        rows = [_row(one) for one in _read_figures(name, version)]
    return table(("FIGURE", "VALUE", "95 % INTERVAL", "N", "EXTRACTOR"), rows, right=(1, 3))


def _row(one: Figure) -> tuple[str, str, str, str, str]:
    interval = "" if one.low is None or one.high is None else f"{_number(one.low)} to {_number(one.high)}"
    return one.name, _number(one.value), interval, str(one.n or ""), one.unavailable or one.extractor


def _read_figures(name: str, version: str) -> list[Figure]:
    from pydantic import TypeAdapter

    try:
        return TypeAdapter(list[Figure]).validate_json(registry.read_file(name, version, FIGURES))
    except ValueError as error:  # pydantic's ValidationError, and bytes that are not UTF-8
        raise _damaged(name, version, FIGURES, str(error).splitlines()[0]) from None


def _lineage(name: str, version: str) -> str:
    """A line for each dataset that led to the version."""
    rows = []
    for stage, made in _json(name, version, LINEAGE).items():
        known = made if isinstance(made, dict) else {"dataset": made}
        rows_out = known.get("counts", {}).get("out", "")
        rows.append((stage, str(known.get("dataset", "")), str(rows_out), str(known.get("code_version", ""))))
    return table(("STAGE", "DATASET", "ROWS", "CODE"), rows, right=(2,))


def _moves(name: str, version: str) -> str:
    rows = [
        (alias, one.when, one.origin or "none", one.to or "none", one.kind, one.who or "unknown", one.why)
        for alias, past in _pasts(name).items()
        for one in past.moves
        if version in (one.origin, one.to)
    ]
    if not rows:
        return "MOVES\nno alias was ever on this version"
    return table(("ALIAS", "WHEN", "FROM", "TO", "KIND", "WHO", "WHY"), rows)


def _json(name: str, version: str, file: str) -> dict[str, Any]:
    try:
        found = json.loads(registry.read_file(name, version, file))
    except ValueError as error:
        raise _damaged(name, version, file, str(error)) from None
    if not isinstance(found, dict):
        raise _damaged(name, version, file, "it holds no mapping")
    return found


def _damaged(name: str, version: str, file: str, why: str) -> RegistryError:
    message = f"{file} of {name} version {version} is damaged ({why}); register its bundle again or delete the version"
    return RegistryError(message, field=file)


def _number(value: float | None) -> str:
    return "unavailable" if value is None else f"{value:.4g}"


def _named(version: str | None) -> str:
    return f"version {version}" if version else "no version"


def _local(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).isoformat(" ", "minutes")
