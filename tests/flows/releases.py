"""Helpers of the tests of releases and rollbacks: metrics, warm-ups and services with a known result."""

from __future__ import annotations

from collections.abc import Callable

from flows.cluster.jobs import Job
from flows.release import gate
from flows.steps.champions import turn
from flows.steps.line import Run
from flows.steps.promotion import promote
from mmface.bundles import registry
from mmface.errors import ServiceError
from mmface.evaluate.deciding.decision import Decision
from mmface.evaluate.scores import Scores
from tests.mmface.evaluate.simulated import simulate

GOOD, BAD = (
    simulate({"mask/miou": [value] * 9, "mask/hair_colour_accuracy": [hair] * 9})
    for value, hair in ((0.9, 1), (0.01, 0))
)
NAME = "mmface-dit"


def champion() -> str | None:
    return registry.get_alias(NAME, "champion")


def loads(job: Job) -> None:
    """A warm-up that succeeds."""


def answers() -> None:
    """A service that answers with the version."""


def refuses() -> None:
    raise ServiceError("answers 500", field="MMFACE_SERVE_URL")


def decide(run: Run, scores: Scores, version: str) -> Decision:
    """What the gate says without leaks and without the champion's scores."""
    return gate.fn(run, version, scores, None, [])


def release(run: Run, scores: Scores, version: str, confirm: Callable[[], None] = answers) -> bool:
    """What a scheduled run does with a bundle."""
    decision = decide(run, scores, version)
    if decision.passed:
        with turn(run.home, NAME) as held:
            promote(run, held, version, decision.reason, loads, confirm)
    return decision.passed
