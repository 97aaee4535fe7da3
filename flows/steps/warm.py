"""The job that shows that a version can be served, before champion moves to it (§8)."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

from flows.cluster.jobs import Job, Watcher
from flows.steps.line import Run
from mmface.bundles import registry
from mmface.datasets.manifest import Identity
from mmface.errors import SAID, TRY_AGAIN, StageError, UnreachableError

FOLDER = "warm"


@dataclass(frozen=True)
class WarmUp(Job):
    """Runs :mod:`serve.deploy.warm`. It publishes no dataset: its success is a receipt, which says what loads *now*.

    Attributes:
        version: what is loaded.
    """

    version: str = ""

    @property
    def module(self) -> str:
        """What ``python -m`` runs."""
        return "serve.deploy.warm"

    @property
    def arguments(self) -> list[str]:
        """Command line of the entrypoint."""
        given = {"recipe": self.recipe, "home": self.home.uri, "version": self.version, "receipt": self.receipt}
        return [part for name, value in given.items() for part in (f"--{name}", value)]

    @property
    def receipt(self) -> str:
        """Key of what the entrypoint writes last."""
        return f"{FOLDER}/{self.identity.fingerprint}.json"

    def published(self) -> str | None:
        """The receipt's URI once it is there."""
        return f"{self.home.uri}/{self.receipt}" if self.home.exists(self.receipt) else None

    def run_here(self, watcher: Watcher) -> None:
        """Runs it in a process of its own, which ends when this one no longer waits."""
        command = [sys.executable, "-m", self.module, *self.arguments]
        done = subprocess.run(command, env=os.environ | self.environment, stderr=subprocess.PIPE, text=True)
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        for line in lines:
            watcher.line(line)
        if done.returncode:
            kind = UnreachableError if done.returncode == TRY_AGAIN else StageError
            said = lines[-1] if lines else f"its process ended with {done.returncode}"
            raise kind(said.removeprefix(SAID), field=self.identity.stage)


def warm_up(run: Run, version: str) -> WarmUp:
    """The job for ``version``. An earlier receipt is removed: libraries may have changed since."""
    model = run.recipe.serve.model_name
    identity = Identity(stage="warm", version=1, config={"model": model, "version": version})
    mlflow_run = next(one.run_id for one in registry.list_versions(model) if one.version == version)
    job = WarmUp(
        "warm", identity, run.recipe_uri, run.home, 0, mlflow_run, run.flow_run, run.recipe.jobs, version=version
    )
    run.home.delete(job.receipt)
    return job
