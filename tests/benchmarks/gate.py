"""Measures what the gate decides about a really trained demo model: against itself, and against worse models.

``--home`` is a home in which ``make demo`` has trained a model. What the benchmark trains, paints and measures is
kept below ``--work``; a second run resumes.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from mmface.config import Gate
from mmface.evaluate.deciding.compare import Difference, compare, difference
from mmface.evaluate.deciding.gate import decide
from mmface.evaluate.scores import Scores
from tests.benchmarks._common import finish, verdict
from tests.benchmarks.gate_models import WORSE, Trained, find_model, train_model
from tests.benchmarks.gate_pictures import Task, scores_of

MIOU, CLIP, HAIR = "mask/miou", "mask/clip_score", "mask/hair_colour_accuracy"
# Narrow margins: on 64 rows the usual decision about the same model is "not decided", which the benchmark counts.
GATE = Gate.model_validate(
    {"compare": {MIOU: {"margin": 0.02}, CLIP: {"margin": 2.0}, HAIR: {"margin": 0.05}}, "better": None}
)
CAPTIONS, MASKS, FEWER = WORSE
MOST_ALARMS = 0.05
PILOT = 5000  # first row of the pilot of fewer steps; the confirmation takes the rows after it


def main(argv: Sequence[str] | None = None) -> None:
    given = parse(argv)
    base = find_model(given.home)
    held = against_itself(base, given) if "itself" in given.parts else []
    held += against(CAPTIONS, (CLIP, HAIR), base, given) if "captions" in given.parts else []
    held += against(MASKS, (MIOU,), base, given) if "masks" in given.parts else []
    held += fewer_steps(base, given) if "fewer" in given.parts else []
    finish(held)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True, help="home with a trained demo model; it is only read")
    parser.add_argument("--work", type=Path, help="where results are kept (default: HOME/benchmarks/gate)")
    parser.add_argument("--rows", type=int, default=64, help="rows of an evaluation (default: 64)")
    parser.add_argument("--pairs", type=int, default=20, help="pairs of a worse model with the base (default: 20)")
    # At the 2.5 % of a side that the level allows, 2 or more of 20 would be found by chance in 9 % of the runs.
    parser.add_argument("--alike", type=int, default=100, help="pairs of the base with itself (default: 100)")
    parser.add_argument("--most", type=int, default=1024, help="most rows to tell fewer steps apart (default: 1024)")
    parser.add_argument("--parts", default="itself,captions,masks,fewer", help="which parts to run (default: all)")
    given = parser.parse_args(argv)
    given.work = (given.work or given.home / "benchmarks" / "gate").absolute()
    return given


def against_itself(base: Trained, given: argparse.Namespace) -> list[bool]:
    """The same model with other seeds: disjoint pairs as the bound asks, and all pairs, whose shares vary less."""
    systems = scores_of([_task(base, "base", base.folder, given, draw) for draw in range(2 * given.alike)])
    pairs = list(zip(systems[::2], systems[1::2], strict=True))
    decisions = Counter(decide(a, b, GATE).verdict for a, b in pairs)
    print(f"     the same model, {given.alike} pairs of {given.rows} rows, gate: {dict(decisions)}")
    held = [verdict("itself: rejected by the gate", decisions["rejected"] / len(pairs), MOST_ALARMS)]
    for metric in (MIOU, CLIP, HAIR):
        verdicts = [difference(a, b, metric).verdict for a, b in pairs]
        some, every = Counter(verdicts), Counter(difference(a, b, metric).verdict for a, b in combinations(systems, 2))
        print(f"     {metric}: {dict(some)} of {len(pairs)} pairs, {dict(every)} of all {every.total()}")
        groups = [Counter(verdicts[i : i + given.pairs]) for i in range(0, len(pairs), given.pairs)]
        print(f"     in groups of {given.pairs}: worse {[one['worse'] for one in groups]}", end=", ")
        print(f"better {[one['better'] for one in groups]}")
        for word in ("worse", "better"):
            held.append(verdict(f"itself: {word} in {metric}, all pairs", every[word] / every.total(), MOST_ALARMS))
            held.append(verdict(f"itself: {word} in {metric}", some[word] / len(pairs), MOST_ALARMS))
    return held


def against(name: str, metrics: Sequence[str], base: Trained, given: argparse.Namespace) -> list[bool]:
    """A worse model as challenger of the base model, on the same rows with the same seeds."""
    folder = train_model(name, base, given.work)
    pairs = range(given.pairs)
    worse = scores_of([_task(base, name, folder, given, draw) for draw in pairs])
    champion = scores_of([_task(base, "base", base.folder, given, draw) for draw in pairs])
    decisions = [decide(a, b, GATE) for a, b in zip(worse, champion, strict=True)]
    lost = sum(_loses(a, b, metrics) for a, b in zip(worse, champion, strict=True))
    _print(compare(worse[0], champion[0], [MIOU, CLIP, HAIR]))
    print(f"     {name}: {decisions[0].reason}")
    rejected = sum(decision.verdict == "rejected" for decision in decisions)
    return [
        verdict(f"{name}: rejected", rejected, given.pairs, at_most=False, unit=f" of {given.pairs}"),
        verdict(f"{name}: loses on {' or '.join(metrics)}", lost, given.pairs, at_most=False),
    ]


def fewer_steps(base: Trained, given: argparse.Namespace) -> list[bool]:
    """A pilot names the rows that its clearest difference needs; new rows of that number must tell the two apart."""
    folder = train_model(FEWER, base, given.work)

    def pair(first: int, n: int) -> list[Scores]:
        models = (("fewer", folder), ("base", base.folder))
        return scores_of([_task(base, name, model, given, 0, first, n) for name, model in models])

    pilot = [one for one in compare(*pair(PILOT, 2 * given.rows), level=0.9) if one.rows and one.value and one.error]
    _print(pilot)
    clearest = max(pilot, key=lambda one: abs(one.value or 0) / (one.error or 1))
    rows = clearest.rows_for(abs(clearest.value or 0)) or given.most + 1
    print(
        f"     {FEWER}: {clearest.name} differs by {clearest.value:.4g}; {clearest.n} rows detect "
        f"{clearest.detectable:.2g}, so that {rows} rows are needed"
    )
    if not verdict(f"{FEWER}: rows needed", rows, given.most):
        return [False]
    again = difference(*pair(PILOT + 2 * given.rows, max(rows, given.rows)), clearest.name, level=0.9)
    _print([again])
    return [verdict(f"{FEWER}: told apart as in the pilot", again.verdict == clearest.verdict, 1, at_most=False)]


def _task(
    base: Trained, name: str, model: Path, given: argparse.Namespace, draw: int, first: int = 0, n: int = 0
) -> Task:
    n = n or given.rows
    file = given.work / "scores" / f"{name.replace(' ', '-')}-{first}-{n}-{draw}.parquet"
    return Task(str(base.folder / "recipe.yaml"), str(model), first, n, draw, str(file))


def _loses(a: Scores, b: Scores, metrics: Sequence[str]) -> bool:
    return any(difference(a, b, metric).verdict == "worse" for metric in metrics)


def _print(found: Sequence[Difference]) -> None:
    for one in found:
        limits = f"{one.low:.4g} to {one.high:.4g}" if one.low is not None and one.high is not None else "no interval"
        print(
            f"     {one.name:32} {one.a:8.4f} against {one.b:8.4f}, difference {one.value:8.4f} ({limits}), n {one.n}"
        )


if __name__ == "__main__":
    main()
