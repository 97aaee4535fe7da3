"""Two promotions and a rollback at once: processes that run ``mmface models …`` against one registry, some killed.

The parent holds the lease until all of them wait for it, so each starts from the same champion. Their warm-up succeeds
at once; everything else is the real command.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import sys
import time
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401

from flows.cli.command_line import main
from flows.steps import promotion
from flows.steps.champions import turn
from mmface.bundles import registry
from mmface.bundles.moves import CHAMPION, MOVING_TAG, PREVIOUS, read_past, version_tags
from mmface.bundles.verdicts import PASSED, VERDICT_TAG, record_decision
from mmface.store import Store, home, leases
from tests.flows.releases import NAME, loads

GATED, UNGATED = 4, 2
WAIT_SECONDS = 0.02
LONGEST = 240.0  # seconds for a command on a machine at work


@dataclass
class Command:
    """One command of a race; ``why`` tells its record from others."""

    words: tuple[str, ...]
    why: str
    allowed: bool = True
    killed: bool = False
    code: int | None = None
    said: str = ""


@dataclass
class Race:
    """The result of one round."""

    number: int
    commands: list[Command]
    kinds: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def line(self) -> str:
        """One line of the report."""
        ends = [f"{one.words[0]} {'killed' if one.killed else one.code}" for one in self.commands]
        winner = self.kinds[0] if self.kinds else "none"
        return f"{self.number:>5}  {', '.join(ends):<50} {winner:<12}{self.seconds:>6.1f} s"


class Arena:
    """A registry with versions that the gate passed and others, and the processes that move its champion."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.draw, self.folder, self.span = random.Random(seed), folder, 1.0  # noqa: S311
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([__name__])
        run = registry.start_run("race")
        self.versions = [self._register(number, run) for number in range(GATED + UNGATED)]
        self.gated = self.versions[:GATED]
        for version in self.gated:
            record_decision(NAME, version, PASSED, "passed 2 checks", "{}")
        record_decision(NAME, self.versions[-1], "rejected", "mask/miou is 0.1", "{}")
        for version in self.gated[:2]:
            self.operate(version)

    def round(self, number: int, *, kills: bool) -> Race:
        """Races two promotions and a rollback, checks the registry, and lets an operator promote another version."""
        before = read_past(NAME)
        others = self.draw.sample([one for one in self.gated if one != before.current], 2)
        if number % 5 == 4:
            others[1] = self.draw.choice(self.versions[GATED:])
        commands = [
            Command(("promote", one), f"round {number}: {i}", one in self.gated) for i, one in enumerate(others)
        ]
        commands.append(Command(("rollback", str(before.current)), f"round {number}: back"))
        started = time.monotonic()
        self.race(commands, kills)
        race = Race(number, commands, seconds=time.monotonic() - started)
        past = read_past(NAME)
        made = past.moves[len(before.moves) :]
        race.kinds = [one.kind for one in made]
        check_chain(CHAMPION)
        assert len(made) <= 1, "each command moves the champion that it saw, so only one can win"
        if any(one.allowed and not one.killed for one in commands):
            assert len(made) == 1, [one.said for one in commands]
        for one in commands:
            recorded = [move for move in made if move.why == one.why]
            if not one.killed:
                assert one.code in (0, 2), one.said
                assert len(recorded) == (one.code == 0), one.said
                assert one.code == 0 or "nothing was" in one.said or "promotes it anyway" in one.said, one.said
        check_gated()
        self.operate(self.draw.choice([one for one in self.gated if one != past.current]))
        return race

    def race(self, commands: list[Command], kills: bool) -> None:
        """Starts the commands at once and kills some of them at random moments."""
        victims = self.draw.sample(commands, self.draw.randint(1, len(commands) - 1)) if kills else []
        self.draw.shuffle(commands)
        with turn(home(), NAME):
            running = [self._start(one) for one in commands]
            for process, waits in running:
                while process.is_alive() and not waits.is_set():
                    time.sleep(0.01)
        started = time.monotonic()
        due = sorted((self.draw.uniform(0, self.span), commands.index(one)) for one in victims)
        for delay, i in due:
            time.sleep(max(0.0, started + delay - time.monotonic()))
            commands[i].killed = running[i][0].is_alive()
            running[i][0].kill()
        for one, (process, _) in zip(commands, running, strict=True):
            self._finish(one, process)
            one.killed &= one.code not in (0, 2)  # it ended before the signal
        if not kills:
            self.span = time.monotonic() - started

    def operate(self, version: str) -> None:
        """The operator's next command after a race: it must work, and complete what a killed process left."""
        one = Command(("promote", version), f"operator: {version}")
        process, _ = self._start(one)
        self._finish(one, process)
        assert one.code == 0, one.said
        past = read_past(NAME)
        assert (past.current, past.moves[-1].why) == (version, one.why)
        for alias in (CHAMPION, PREVIOUS):
            check_chain(alias)
        assert registry.get_alias(NAME, PREVIOUS) == past.previous
        held = registry.open_tracking().get_registered_model(NAME)
        assert not [key for key in held.tags if key.startswith(MOVING_TAG.format(alias=""))]
        check_gated()

    def _register(self, number: int, run: str) -> str:
        place = self.folder / f"bundle-{number}"
        place.mkdir()
        (place / "README.md").write_text(str(number))  # registering needs files, not a loadable model
        return registry.register_bundle(place, run)

    def _start(self, one: Command) -> tuple[BaseProcess, object]:
        waits, log = self.context.Event(), self.folder / f"{one.why.replace(' ', '-')}.log"
        words = ["models", *one.words, "--why", one.why]
        process = self.context.Process(target=_command, args=(words, dict(os.environ), log, waits), daemon=True)
        process.start()
        return process, waits

    def _finish(self, one: Command, process: BaseProcess) -> None:
        process.join(LONGEST)
        assert process.exitcode is not None, f"{one.words} still runs after {LONGEST:.0f} s"
        log = self.folder / f"{one.why.replace(' ', '-')}.log"
        one.code, one.said = process.exitcode, log.read_text() if log.exists() else ""


def check_chain(alias: str) -> None:
    """The records number every move once, each starts where the last one ended, and the last ends at the alias."""
    past = read_past(NAME, alias)
    assert [one.number for one in past.moves] == list(range(1, len(past.moves) + 1))
    ends = [None, *(one.to for one in past.moves)]
    assert [one.origin for one in past.moves] == ends[:-1]
    assert past.current == ends[-1]
    assert all(one.who and one.why and one.when for one in past.moves)


def check_gated() -> None:
    """The gate passed the champion, and the version that a rollback would return to."""
    client = registry.open_tracking()
    tags, held = version_tags(client, NAME), client.get_registered_model(NAME).aliases
    for alias in (CHAMPION, PREVIOUS):
        assert alias not in held or tags[str(held[alias])].get(VERDICT_TAG) == PASSED, (alias, held)


def _command(words: list[str], environment: dict[str, str], log: Path, waits: object) -> None:
    """Runs one command in a process of its own."""
    os.environ.update(environment)
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    logging.getLogger().handlers.clear()
    leases.WAIT_SECONDS = WAIT_SECONDS
    promotion.run_job = loads  # type: ignore[assignment]
    take = leases.take

    def announced(store: Store, name: str, owner: leases.Owner) -> leases.Lease | leases.Owner:
        waits.set()  # type: ignore[attr-defined]
        return take(store, name, owner)

    leases.take = announced
    sys.exit(main(words))
