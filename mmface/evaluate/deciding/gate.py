"""The gate: decides whether a version may become champion. The recipe sets what it asks (§8).

Three answers: *promoted*, *rejected*, and *not decided* where the rows do not suffice to tell; only the first moves the
champion. Every check of ``gate`` must pass:

- limits: figures of the version alone;
- ``gate.compare``: on no metric worse than the champion by more than its margin, paired over the rows. It passes where
  the one-sided lower limit of the gain at ``gate.level`` lies above -margin. Since *all* metrics must pass, the chance
  to promote a version that is worse on one of them is at most 1 - level, without a correction for their number. It
  fails where the upper limit lies below -margin; as one such metric suffices, these limits are at 1 - (1 - level) / m
  for m metrics (Bonferroni), so that an equal version is rejected with a chance of at most 1 - level;
- ``gate.better``: the lower limit of the gain at ``gate.level`` lies above 0;
- ``gate.max_memorised``, and no photograph of the evaluation set among the training rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from mmface.config import Gate
from mmface.errors import InputError
from mmface.evaluate.deciding.compare import Difference, check_alike, difference, missing
from mmface.evaluate.deciding.decision import Check, Comparison, Decision
from mmface.evaluate.deciding.estimates import STAND_IN, estimate
from mmface.evaluate.deciding.intervals import FEWEST
from mmface.evaluate.deciding.summary import figure_of
from mmface.evaluate.measuring.metric_names import FRECHET, FrechetName
from mmface.evaluate.scores import Scores

__all__ = ["MASK_FRECHET", "Check", "Decision", "asks", "decide"]

MASK_FRECHET = f"mask/{FRECHET}"
LEAKED = 3  # leaked photographs that the reason names
RAISE = "raise evaluate.n in a new evaluate.set"
MANY = 1_000_000  # rows beyond which no number is named
REMEDY = (
    "evaluate both on the same rows with the same extractor, or turn the comparison off for this version "
    "(gate.max_frechet_ratio_to_champion=null); later versions are compared with it"
)
EMPTY = (
    "the gate asks nothing: write limits (such as gate.min_mask_miou) or gate.compare into the recipe, or "
    "`gate: open` to promote every version"
)


def decide(
    challenger: Scores,
    champion: Scores | None,
    gate: Gate,
    *,
    leaks: Sequence[str] = (),
    seed: int = 0,
) -> Decision:
    """Decides about a version.

    Args:
        challenger: scores of the version.
        champion: scores of the champion on the same evaluation set; None if there is no champion yet, which skips the
            comparisons.
        gate: what the recipe asks; a missing, unavailable or non-finite metric fails its check.
        leaks: photographs of the evaluation set that the version was trained on.
        seed: of the resamples.
    """
    checks = [_leaks(leaks)] if leaks else []
    if gate.open:
        return Decision(tuple(checks), note="the gate is open")
    if not asks(gate):
        return Decision(tuple(checks), objection=EMPTY)
    checks += [_limit(challenger, *limit, seed) for limit in _limits(gate)]
    if champion is None:
        compared = gate.compare or gate.better or gate.max_frechet_ratio_to_champion is not None
        return Decision(tuple(checks), note="there is no champion to compare with" if compared else "")
    if gate.max_frechet_ratio_to_champion is not None:
        checks.append(_frechet_ratio(challenger, champion, gate.max_frechet_ratio_to_champion))
    if gate.compare or gate.better:
        checks += _comparisons(challenger, champion, gate, seed)
    return Decision(tuple(checks))


def asks(gate: Gate) -> bool:
    """Whether the gate checks anything."""
    return bool(_limits(gate) or gate.compare or gate.better or gate.max_frechet_ratio_to_champion)


def _limits(gate: Gate) -> list[tuple[str, Comparison, float]]:
    thresholds: list[tuple[str, Comparison, float | None]] = [
        ("mask/miou", ">=", gate.min_mask_miou),
        ("mask/accuracy", ">=", gate.min_mask_accuracy),
        ("mask/hair_colour_accuracy", ">=", gate.min_hair_colour),
        ("mask/clip_distance", "<=", gate.max_clip_distance),
        ("sketch/edge_agreement_gain", ">=", gate.min_edge_agreement_gain),
        ("mask/memorised", "<=", gate.max_memorised),
    ]
    return [(name, comparison, threshold) for name, comparison, threshold in thresholds if threshold is not None]


def _leaks(leaks: Sequence[str]) -> Check:
    shown = ", ".join(one[:16] for one in leaks[:LEAKED]) + (", …" if len(leaks) > LEAKED else "")
    reason = (
        f"{len(leaks)} photographs of the evaluation set were trained on ({shown}): its figures say nothing about new "
        "photographs; choose another set (evaluate.set) and train without its photographs"
    )
    return Check("leaks", float(len(leaks)), "<=", 0.0, "failed", reason)


def _limit(scores: Scores, name: str, comparison: Comparison, threshold: float, seed: int) -> Check:
    one = estimate(scores, name)
    if one is None:
        return Check(name, None, comparison, threshold, "failed", missing(scores, name))
    check = _bounded(name, one.value, comparison, threshold)
    if check.value is None:
        return check
    figure = figure_of(scores, one, seed)
    return replace(check, low=figure.low, high=figure.high, n=figure.n)


def _bounded(name: str, value: float, comparison: Comparison, threshold: float) -> Check:
    finite = math.isfinite(value)
    passed = finite and (value >= threshold if comparison == ">=" else value <= threshold)
    reason = f"{name} is {value:.4g}, required {comparison} {threshold:g}"
    return Check(name, value if finite else None, comparison, threshold, "passed" if passed else "failed", reason)


def _frechet_ratio(challenger: Scores, champion: Scores, ratio: float) -> Check:
    """Compares Fréchet distances; only if their names have the same rows, resolution and extractor weights."""
    mine, its = (estimate(scores, f"mask/{STAND_IN}") for scores in (challenger, champion))
    if mine is None:
        reason = missing(challenger, f"mask/{STAND_IN}")
        return Check(f"{MASK_FRECHET}*/champion", None, "<=", ratio, "failed", reason)
    unlike = _unlike(mine.name, its.name if its else None)
    name = f"{mine.name}/champion"
    if its is None or unlike:
        reason = f"{mine.name} is not compared with the champion's: {unlike}; {REMEDY}"
        return Check(name, None, "<=", ratio, "failed", reason)
    return replace(_bounded(name, _ratio(mine.value, its.value), "<=", ratio), n=len(mine.ids))


def _unlike(name: str, other: str | None) -> str:
    """Why two distances cannot be compared; empty if they can."""
    if other is None:
        return "the champion has none"
    measured, its = FrechetName.parse(name), FrechetName.parse(other)
    assert measured is not None, "estimates have long names"
    assert its is not None, "estimates have long names"
    return f"they differ in {measured.differences(its)}" if measured != its else ""


def _ratio(value: float, reference: float) -> float:
    if reference > 0 or math.isnan(reference):
        return value / reference
    return 1.0 if value == 0 else math.inf


def _comparisons(challenger: Scores, champion: Scores, gate: Gate, seed: int) -> list[Check]:
    """The checks of ``compare`` and ``better``; all fail if the two were not measured alike."""
    asked: list[tuple[str, float | None]] = [(name, one.margin) for name, one in gate.compare.items()]
    asked += [(gate.better, None)] if gate.better else []
    try:
        check_alike(challenger, champion)
    except InputError as error:
        return [_failed(name, margin, f"{name} is not compared with the champion's: {error}") for name, margin in asked]
    found = []
    for name, margin in asked:

        def at(level: float, name: str = name) -> Difference:
            """With one-sided limits at ``level``."""
            return difference(challenger, champion, name, level=2 * level - 1, power=gate.power, seed=seed)

        plain = at(gate.level)
        several = margin is not None and len(gate.compare) > 1
        strict = at(1 - (1 - gate.level) / len(gate.compare)) if several else plain
        found.append(_against(plain, strict, margin, gate.level))
    return found


def _against(plain: Difference, strict: Difference, margin: float | None, level: float) -> Check:
    """A check of ``compare``, or of ``better`` without a margin; ``strict`` has the limits that show a loss."""
    name = plain.name
    if plain.unavailable:
        return _failed(name, margin, plain.unavailable)
    if not plain.better:
        return _failed(name, margin, f"{name} has no direction of better: it only describes; compare another metric")
    if plain.value is None:
        return _failed(name, margin, f"{name} is not finite on a row, in the version or in the champion")
    least = 0.0 if margin is None else -margin
    check = Check(f"{name}/champion", None, ">=", least, "not decided", "", n=plain.n, margin=margin, level=level)
    both = f"{name} is {plain.a:.4g}, the champion's {plain.b:.4g} on the same {plain.n} rows"
    if plain.gain is None or strict.gain is None or plain.n < FEWEST:
        return replace(check, reason=f"{both}: too few rows to tell, give at least {FEWEST} ({RAISE})")
    gain, low, _ = plain.gain
    high = strict.gain[2]
    check = replace(check, value=gain, low=low, high=high, detectable=plain.detectable)
    what = "an improvement" if margin is None else f"a loss of more than {margin:g}"
    if low > least:
        said = "is shown" if margin is None else "is ruled out"
        return replace(check, outcome="passed", reason=f"{both}: {what} {said} at {level:g}")
    if high < least:
        said = "no improvement" if margin is None else f"a loss of more than {margin:g}"
        return replace(check, outcome="failed", reason=f"{both}: worse, {said} at {level:g}")
    rows = plain.rows_for(gain - least)
    needed = rows if rows is not None and plain.n < rows <= MANY else None
    do = f"about {needed:,} rows would do" if needed else "no number of rows is in reach"
    detail = f"the smallest detectable difference is {plain.detectable:.2g}"
    reason = f"{both}: {what} is neither shown nor ruled out; {detail}, {do} ({RAISE})"
    return replace(check, rows_needed=needed, reason=reason)


def _failed(name: str, margin: float | None, reason: str) -> Check:
    least = 0.0 if margin is None else -margin
    return Check(f"{name}/champion", None, ">=", least, "failed", reason, margin=margin)
