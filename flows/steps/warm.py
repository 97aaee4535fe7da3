"""The job that loads a version as a replica does, before the champion alias moves to it (§8)."""

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
    """Runs :mod:`serve.deploy.warm`. It publishes no dataset: on success it writes a receipt in the store.

    Attributes:
        version: the version to load.
    """

    version: str = ""

    @property
    def module(self) -> str:
        """The module that ``python -m`` runs."""
        return "serve.deploy.warm"

    @property
    def arguments(self) -> list[str]:
        """Command-line arguments of the entrypoint."""
        given = {"recipe": self.recipe, "home": self.home.uri, "version": self.version, "receipt": self.receipt}
        return [part for name, value in given.items() for part in (f"--{name}", value)]

    @property
    def receipt(self) -> str:
        """Store key of the receipt, which the entrypoint writes last."""
        return f"{FOLDER}/{self.identity.fingerprint}.json"

    def published(self) -> str | None:
        """The URI of the receipt; None while there is none."""
        return f"{self.home.uri}/{self.receipt}" if self.home.exists(self.receipt) else None

    def run_here(self, watcher: Watcher) -> None:
        """Runs the job in a child process."""
        command = [sys.executable, "-m", self.module, *self.arguments]
        done = subprocess.run(command, env=os.environ | self.environment, stderr=subprocess.PIPE, text=True)
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        for line in lines:
            watcher.line(line)
        if done.returncode:
            kind = UnreachableError if done.returncode == TRY_AGAIN else StageError
            reason = lines[-1] if lines else f"the process exited with {done.returncode}"
            raise kind(reason.removeprefix(SAID), field=self.identity.stage)


def warm_up(run: Run, version: str) -> WarmUp:
    """The job for ``version``. Deletes an earlier receipt: libraries may have changed since it was written."""
    model = run.recipe.serve.model_name
    identity = Identity(stage="warm", version=1, config={"model": model, "version": version})
    mlflow_run = next(one.run_id for one in registry.list_versions(model) if one.version == version)
    job = WarmUp(
        "warm", identity, run.recipe_uri, run.home, 0, mlflow_run, run.flow_run, run.recipe.jobs, version=version
    )
    run.home.delete(job.receipt)
    return job
