"""The folder of a local stack: data, logs, secrets and the state of its processes."""

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
    """A running service.

    Attributes:
        restarts: how often it was restarted.
    """

    process: Process
    restarts: int = 0


@dataclass
class State:
    """The processes of the stack, written to disk so that another process can stop them.

    Attributes:
        ready: whether every service has been healthy once.
        seen: every process of the stack that still runs.
        scratch: Ray's folder, which is removed when the stack stops.
    """

    supervisor: Process
    scratch: str
    services: dict[str, Running] = field(default_factory=dict)
    seen: list[Process] = field(default_factory=list)
    ready: bool = False


class Place:
    """The folder of the stack."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().absolute()
        self._kept = ""

    def make(self) -> None:
        """Creates the folder. Raises ServiceError when that fails."""
        try:
            (self.folder / LOGS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ServiceError(f"cannot create {self.folder} ({error.strerror})", field=FIELD) from error

    def log(self, name: str) -> Path:
        """The path of a service's log."""
        return self.folder / LOGS / f"{name}.log"

    def state(self) -> State | None:
        """The state that was written last; None when there is none."""
        try:
            kept = json.loads((self.folder / STATE).read_text())
        except FileNotFoundError:
            return None
        services = {name: Running(Process(**one["process"]), one["restarts"]) for name, one in kept["services"].items()}
        seen = [Process(**one) for one in kept["seen"]]
        return State(Process(**kept["supervisor"]), kept["scratch"], services, seen, kept["ready"])

    def keep(self, state: State) -> None:
        """Writes the state atomically, if it has changed."""
        text = json.dumps(asdict(state), indent=1)
        if text != self._kept:
            self._write(STATE, text)
            self._kept = text

    def forget(self) -> None:
        """Deletes the state and the environment: nothing runs any more."""
        for name in (STATE, ENVIRONMENT):
            (self.folder / name).unlink(missing_ok=True)

    def keep_environment(self, variables: Mapping[str, str]) -> None:
        """Writes the ``export`` lines for users of the stack; they contain secrets."""
        lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        self._write(ENVIRONMENT, "\n".join(lines) + "\n")

    def environment(self) -> str:
        """The ``export`` lines. Raises ServiceError when no stack runs."""
        try:
            return (self.folder / ENVIRONMENT).read_text()
        except FileNotFoundError:
            raise ServiceError(f"no stack runs in {self.folder}; start one with mmface up", field=FIELD) from None

    def _write(self, name: str, text: str) -> None:
        """Writes a file atomically that only this user may read."""
        draft = self.folder / f".{name}"
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        draft.replace(self.folder / name)


def secret() -> str:
    """A new random secret."""
    return secrets.token_hex(24)
