"""The decision of the gate about a version: its checks, the verdict and the reason."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Comparison = Literal[">=", "<="]
Outcome = Literal["passed", "failed", "not decided"]
Verdict = Literal["passed", "rejected", "not decided"]


@dataclass(frozen=True)
class Check:
    """One check of the gate and its result.

    Attributes:
        name: of the metric, with ``/champion`` for a comparison.
        value: the figure, or the gain over the champion in the direction of better; None if it is missing or not
            finite.
        comparison, threshold: what the value, or the limit of the gain, must be.
        outcome: only "passed" lets the version through.
        reason: one line.
        low, high: limits of the value: two-sided of a figure, each one-sided at ``level`` of a gain.
        n: rows.
        margin: of ``gate.compare``.
        level: of the limits.
        detectable: smallest difference that the rows detect with the probability ``gate.power``.
        rows_needed: rows with which the measured gain would be decided; None if it is, or beyond a million.
    """

    name: str
    value: float | None
    comparison: Comparison
    threshold: float
    outcome: Outcome
    reason: str
    low: float | None = None
    high: float | None = None
    n: int = 0
    margin: float | None = None
    level: float | None = None
    detectable: float | None = None
    rows_needed: int | None = None

    @property
    def passed(self) -> bool:
        return self.outcome == "passed"


@dataclass(frozen=True)
class Decision:
    """The result of all checks. The version is promoted if every check passes and there is no other objection.

    Attributes:
        objection: why it may not be promoted whatever the checks say; empty otherwise.
        note: what was not asked, such as a comparison without a champion.
    """

    checks: tuple[Check, ...]
    objection: str = ""
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        if self.objection or any(check.outcome == "failed" for check in self.checks):
            return "rejected"
        return "passed" if all(check.passed for check in self.checks) else "not decided"

    @property
    def passed(self) -> bool:
        return self.verdict == "passed"

    @property
    def reason(self) -> str:
        """One line with the checks that did not pass, or the number of passed checks."""
        failed = [check.reason for check in self.checks if check.outcome == "failed"]
        failed += [check.reason for check in self.checks if check.outcome == "not decided"]
        failed += [self.objection] if self.objection else []
        passed = f"passed {len(self.checks)} checks" + (f"; {self.note}" if self.note else "")
        return "; ".join(failed) if failed else passed

    def to_dict(self) -> dict[str, Any]:
        """The decision as JSON values: tags of the version, artifacts, report."""
        checks = [asdict(check) | {"passed": check.passed} for check in self.checks]
        return {"verdict": self.verdict, "reason": self.reason, "note": self.note, "checks": checks}
