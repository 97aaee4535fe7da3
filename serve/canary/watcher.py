"""Decides about the canary: counts the replicas' observations, and moves the aliases when a trial ends (§8).

One process of the service does this, and it alone. Its counts live in memory: after a restart the trial begins afresh,
as it does when an alias moves.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import Protocol

from mmface.bundles.aliases import get_alias, mark_rolled_back, move_alias
from mmface.bundles.moves import read_past
from mmface.bundles.tracking import mlflow_errors, open_tracking
from mmface.config import Serve
from mmface.errors import MMFaceError
from mmface.store import Store
from mmface.store.leases import Lease, Owner, take
from serve.canary.observer import Observation, Sample
from serve.canary.trial import Decision, Trial

log = logging.getLogger(__name__)
EVENTS = logging.getLogger("serve.events")  # one line of JSON per decision

VERDICT_TAG, PASSED = "mmface.gate.verdict", "promoted"  # what the gate leaves on a version
DECISION_TAG = "mmface.canary"
MAX_SAMPLES = 64  # pictures that wait for the parser
MAX_ARRIVED = 100_000
PAUSE_S = 0.2


class Events(Protocol):
    """Gets what is to be shown of a trial."""

    def progress(self, trial: Trial) -> None:
        """The counts have changed."""

    def decided(self, version: str, outcome: str) -> None:
        """A decision was carried out."""

    def skipped(self, version: str, reason: str) -> None:
        """See :data:`serve.canary.observer.OnSkip`."""


class Watcher:
    """Watches the versions of ``settings.alias`` and ``settings.canary.alias``.

    Every method but :meth:`observe` and :meth:`close` belongs to one thread.

    Args:
        place: the home, where the lease of releases lies.
        judge: measures the mask agreement of a sample.
        events: see :class:`Events`.
    """

    def __init__(self, settings: Serve, place: Store, judge: Callable[[Sample], float], events: Events) -> None:
        assert settings.canary.alias is not None
        self.trial: Trial | None = None
        self._settings, self._alias = settings, settings.canary.alias
        self._place, self._judge, self._events = place, judge, events
        self._arrived: deque[Observation] = deque(maxlen=MAX_ARRIVED)
        self._samples: deque[tuple[Trial, bool, Sample]] = deque()
        self._seeds: set[int] = set()  # of this trial
        self._next_look = 0.0
        self._said: dict[str, object] = {}
        self._closed = threading.Event()

    def observe(self, batch: Iterable[Observation]) -> None:
        """Takes observations; returns at once."""
        self._arrived.extend(batch)

    def run(self) -> None:
        """Watches until :meth:`close`. A registry or store that does not answer is asked again."""
        pause = 0.0
        while not self._closed.wait(pause):
            try:
                pause = 0.0 if self.step() else PAUSE_S
            except MMFaceError as error:
                log.warning("canary: %s", error)
                pause = self._settings.follow_s

    def close(self) -> None:
        """Ends :meth:`run`."""
        self._closed.set()

    def step(self) -> bool:
        """Looks at the aliases if it is time, counts what has arrived, parses one sample, decides.

        Returns:
            Whether more samples wait.

        Raises:
            RegistryError: an alias was moved in between; nothing was moved.
            ServiceError: the registry or the store cannot be reached.
        """
        if monotonic() >= self._next_look:
            self._next_look = monotonic() + self._settings.follow_s
            self.look()
        changed = bool(self._arrived or self._samples)
        while self._arrived:
            self._count(self._arrived.popleft())
        if self._samples:
            trial, by_canary, sample = self._samples.popleft()
            trial.add("agreement", self._judge(sample), canary=by_canary)
        if self.trial is not None:
            if changed:
                self._events.progress(self.trial)
            decision = self.trial.decide()
            if decision is not None:
                self._act(self.trial, decision)
        return bool(self._samples)

    def look(self) -> None:
        """Begins a trial when the aliases point to another pair of versions, and ends one whose pair is gone."""
        champion, canary = self._pair()
        if self.trial is not None and (self.trial.champion, self.trial.canary) == (champion, canary):
            return
        self.trial = None
        if champion is None or canary is None or canary == champion:
            return
        trial = Trial(self._settings.canary, champion, canary)
        past = read_past(self._settings.model_name, self._settings.alias)
        if canary in past.rolled_back:
            self._act(trial, Decision("withdrawn", past.objection(canary), {}))
            return
        objection = self._objection(canary)
        if objection:
            self._tell("waiting", trial, why=objection)
            return
        self.trial = trial
        self._seeds.clear()
        self._samples.clear()
        self._tell("begun", trial)

    def _pair(self) -> tuple[str | None, str | None]:
        name = self._settings.model_name
        return get_alias(name, self._settings.alias), get_alias(name, self._alias)

    def _objection(self, version: str) -> str:
        """Why the service must not decide about a version; empty if it may."""
        name = self._settings.model_name
        objection = read_past(name, self._settings.alias).objection(version)
        if objection or not self._settings.canary.require_gate:
            return objection
        client = open_tracking()
        with mlflow_errors():
            verdict = client.get_model_version(name, version).tags.get(VERDICT_TAG)
        return "" if verdict == PASSED else f"version {version} has not passed the gate ({VERDICT_TAG}: {verdict})"

    def _count(self, seen: Observation) -> None:
        trial, version = self.trial, seen.canary if seen.by_canary else seen.champion
        if trial is None or (trial.champion, trial.canary) != (seen.champion, seen.canary):
            return
        if seen.seed in self._seeds:  # the seed chose the version, so its requests are no independent draws
            self._events.skipped(version, "repeated")
            return
        self._seeds.add(seen.seed)
        trial.add("errors", float(seen.failed), canary=seen.by_canary)
        if seen.duration is not None:
            trial.add("duration", seen.duration, canary=seen.by_canary)
        if seen.sample is None:
            return
        if len(self._samples) >= MAX_SAMPLES:
            self._events.skipped(version, "full")
            return
        self._samples.append((trial, seen.by_canary, seen.sample))

    def _act(self, trial: Trial, decision: Decision) -> None:
        """Carries out a decision, unless a release holds the lease: then at a later step."""
        lease = take(self._place, f"release-{self._settings.model_name}", Owner.this(""))
        if isinstance(lease, Owner):
            self._tell("waiting", trial, why=f"it is {decision.outcome} after the release of {lease}")
            return
        try:
            same = self._pair() == (trial.champion, trial.canary)
            if same and not (decision.outcome == "promoted" and self._objection(trial.canary)):
                self._move(trial, decision, lease)
            self.trial = None  # done, or an operator or a release was faster
        finally:
            lease.release()

    def _move(self, trial: Trial, decision: Decision, lease: Lease) -> None:
        name, who = self._settings.model_name, f"service, {lease.owner}"
        move = partial(move_alias, name, why=decision.why, who=who, fence=lease.confirm)
        if decision.outcome == "promoted":
            move(self._settings.alias, trial.canary, expected=trial.champion, kind="promoted")
        else:
            lease.confirm()
            mark_rolled_back(name, trial.canary, self._settings.alias)
            move(self._alias, None, expected=trial.canary, kind="withdrawn")
        self._events.decided(trial.canary, decision.outcome)
        record = self._tell(decision.outcome, trial, why=decision.why, who=who, figures=decision.figures)
        client = open_tracking()
        with mlflow_errors():
            client.set_model_version_tag(name, trial.canary, DECISION_TAG, record)
        if decision.outcome == "promoted":  # the canary is over; the alias is free for the next one
            move(self._alias, None, expected=trial.canary, kind="set")

    def _tell(self, state: str, trial: Trial, **more: object) -> str:
        """Writes an event, unless the last one said the same; returns its JSON."""
        said: dict[str, object] = {"event": "canary", "state": state, "model": self._settings.model_name}
        said |= {"version": trial.canary, "champion": trial.champion, **more}
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), **said})
        if said != self._said:
            EVENTS.info(line)
        self._said = said
        return line
