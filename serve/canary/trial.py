"""The trial of a canary: three questions about live answers, and the decision that follows from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mmface.config import Canary
from serve.canary.evidence import Evidence, loss, rise, slower

Outcome = Literal["promoted", "withdrawn", "undecided"]
Measure = Literal["errors", "duration", "agreement"]
Figure = float | int | None


@dataclass(frozen=True)
class Decision:
    """What becomes of a canary: ``undecided`` canaries are withdrawn too.

    Attributes:
        why: one line with the numbers.
        figures: by measure, the number of values and the mean of canary and champion, and the evidence as the share
            of what a decision needs.
    """

    outcome: Outcome
    why: str
    figures: dict[str, dict[str, Figure]]


class Trial:
    """Counts the answers of a canary and of the champion until it can decide.

    A version that exceeds one of the limits is promoted with a probability of at most 1 - ``level``, because every
    measure must be shown to be fine (an intersection-union test needs no correction). One that keeps all limits is
    shown to be worse with at most the same, because each of the three measures gets a third of it.

    Args:
        settings: the limits.
        champion, canary: the versions.
    """

    def __init__(self, settings: Canary, champion: str, canary: str) -> None:
        self.champion, self.canary = champion, canary
        self._settings = settings
        slowdown = 1 + settings.max_slowdown
        self.evidence: dict[Measure, Evidence] = {
            "errors": Evidence(rise, settings.max_error_increase, -1, 1),
            "duration": Evidence(slower(slowdown), 0.5, 0, 1),
            "agreement": Evidence(loss, settings.max_agreement_loss, -1, 1),
        }

    @property
    def requests(self) -> int:
        """How many of the canary's requests were counted."""
        return self.evidence["errors"].canary.n

    def add(self, measure: Measure, value: float, *, canary: bool) -> None:
        """Counts one value of one request.

        Args:
            value: ``errors``: 1 for a failed request, else 0; ``duration``: in any unit; ``agreement``: from 0 to 1.
        """
        self.evidence[measure].add(value, canary=canary)

    def progress(self, measure: Measure) -> tuple[float, float]:
        """How much of the needed evidence there is that the canary is worse, and that it is fine; 1 is enough."""
        found, needed = self.evidence[measure], -math.log(1 - self._settings.level)
        return found.worse / (needed + math.log(len(self.evidence))), found.fine / needed

    def decide(self) -> Decision | None:
        """The decision; None while there is none."""
        shares = {one: self.progress(one) for one in self.evidence}
        worse = [one for one, (against, _) in shares.items() if against >= 1]
        if worse:
            return self._decision("withdrawn", f"worse than version {self.champion} in {', '.join(worse)}")
        open_ = [one for one, (_, fine) in shares.items() if fine < 1]
        if not open_ and self.requests >= self._settings.min_requests:
            return self._decision("promoted", f"no worse than version {self.champion}")
        if self.requests >= self._settings.max_requests:
            return self._decision("undecided", f"not decided after {self.requests} requests: {', '.join(open_)}")
        return None

    def _decision(self, outcome: Outcome, why: str) -> Decision:
        return Decision(outcome, f"{why} ({self.describe()})", {one: self._figures(one) for one in self.evidence})

    def describe(self) -> str:
        """All figures in one line, the canary's before the champion's."""
        errors, duration, agreement = (self.evidence[one] for one in ("errors", "duration", "agreement"))
        parts = (
            f"errors {errors.canary.mean:.2%} of {errors.canary.n} against {errors.champion.mean:.2%} of "
            f"{errors.champion.n}",
            f"mean duration {duration.canary.mean:.3g} of {duration.canary.n} against {duration.champion.mean:.3g} of "
            f"{duration.champion.n}",
            f"mask agreement {agreement.canary.mean:.3f} of {agreement.canary.n} against "
            f"{agreement.champion.mean:.3f} of {agreement.champion.n}",
        )
        return "; ".join(parts)

    def _figures(self, measure: Measure) -> dict[str, Figure]:
        found, (worse, fine) = self.evidence[measure], self.progress(measure)
        return {
            "canary": _finite(found.canary.mean),
            "canary_n": found.canary.n,
            "champion": _finite(found.champion.mean),
            "champion_n": found.champion.n,
            "worse": _finite(worse),
            "fine": _finite(fine),
        }


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
