"""The folder of a local stack: data, logs, secrets, and what runs."""

from __future__ import annotations

import json
import os
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from flows.stack.processes import Process
from mmface.errors import ServiceError

STATE, ENVIRONMENT, LOGS = "state.json", "stack.env", "logs"
FIELD = "--folder"


@dataclass
class Running:
    """A service at work.

    Attributes:
        restarts: how often it was started again.
    """

    process: Process
    restarts: int = 0


@dataclass
class State:
    """What runs, kept on disk so that another process can stop it.

    Attributes:
        ready: every service has answered once.
        seen: every process of the stack that was ever seen and still runs.
        scratch: Ray's folder, which goes when the stack does.
    """

    supervisor: Process
    scratch: str
    services: dict[str, Running] = field(default_factory=dict)
    seen: list[Process] = field(default_factory=list)
    ready: bool = False


class Place:
    """The stack's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().absolute()
        self._kept = ""

    def make(self) -> None:
        """Makes it. Raises ServiceError when it cannot be made."""
        try:
            (self.folder / LOGS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ServiceError(f"cannot make {self.folder} ({error.strerror})", field=FIELD) from error

    def log(self, name: str) -> Path:
        """The log of a service."""
        return self.folder / LOGS / f"{name}.log"

    def state(self) -> State | None:
        """What was written last; None when no stack was left here."""
        try:
            told = json.loads((self.folder / STATE).read_text())
        except FileNotFoundError:
            return None
        services = {name: Running(Process(**one["process"]), one["restarts"]) for name, one in told["services"].items()}
        seen = [Process(**one) for one in told["seen"]]
        return State(Process(**told["supervisor"]), told["scratch"], services, seen, told["ready"])

    def keep(self, state: State) -> None:
        """Writes it in one piece."""
        text = json.dumps(asdict(state), indent=1)
        if text != self._kept:
            self._write(STATE, text)
            self._kept = text

    def forget(self) -> None:
        """Nothing runs any more."""
        for name in (STATE, ENVIRONMENT):
            (self.folder / name).unlink(missing_ok=True)

    def keep_environment(self, variables: Mapping[str, str]) -> None:
        """Writes what a shell exports to use the stack; secrets are in it."""
        lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        self._write(ENVIRONMENT, "\n".join(lines) + "\n")

    def environment(self) -> str:
        """The lines to source. Raises ServiceError when nothing is up."""
        try:
            return (self.folder / ENVIRONMENT).read_text()
        except FileNotFoundError:
            raise ServiceError(f"no stack is up in {self.folder}; start it with mmface up", field=FIELD) from None

    def _write(self, name: str, text: str) -> None:
        """For this user's eyes only, from the first byte on."""
        draft = self.folder / f".{name}"
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        draft.replace(self.folder / name)


def secret() -> str:
    """A new one."""
    return secrets.token_hex(24)
