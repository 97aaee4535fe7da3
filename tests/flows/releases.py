"""Helpers of the tests of releases and rollbacks: metrics, warm-ups and services with a known result."""

from __future__ import annotations

from collections.abc import Callable

from flows.cluster.jobs import Job
from flows.release import gate
from flows.steps.champions import turn
from flows.steps.line import Run
from flows.steps.promotion import promote
from mmface.bundles import registry
from mmface.bundles.verdicts import record_decision
from mmface.errors import ServiceError

GOOD, BAD = ({"mask/miou": value, "mask/hair_colour_accuracy": value} for value in (0.9, 0.01))
NAME = "mmface-dit"


def champion() -> str | None:
    return registry.get_alias(NAME, "champion")


def loads(job: Job) -> None:
    """A warm-up that succeeds."""


def answers() -> None:
    """A service that answers with the version."""


def refuses() -> None:
    raise ServiceError("answers 500", field="MMFACE_SERVE_URL")


def release(run: Run, metrics: dict[str, float], version: str, confirm: Callable[[], None] = answers) -> bool:
    """What a scheduled run does with a bundle."""
    decision = gate.fn(run.recipe, metrics, version)
    record_decision(NAME, version, "passed" if decision.passed else "rejected", decision.reason, "{}")
    if decision.passed:
        with turn(run.home, NAME) as held:
            promote(run, held, version, decision.reason, loads, confirm)
    return decision.passed
