"""The jobs of a flow (§10): entrypoint, command line and environment of a job, and what follows its log."""

from __future__ import annotations

import importlib
import logging
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from flows.cluster import ledger
from mmface.bundles import tracking
from mmface.config import Entrypoint, Jobs, Recipe, fingerprint
from mmface.datasets.dataset import published
from mmface.datasets.manifest import Identity
from mmface.store import HOME_VARIABLE, Store

log = logging.getLogger(__name__)

# Settings of libraries that a job takes over from this process: how much they print.
VERBOSITY = ("DIFFUSERS_VERBOSITY", "HF_HUB_DISABLE_PROGRESS_BARS", "TRANSFORMERS_VERBOSITY")


class Watcher(Protocol):
    """Follows a job on a cluster."""

    def submitted(self, submission_id: str, link: str) -> None:
        """Called when the job exists, with the address of its page on the dashboard."""

    def line(self, text: str) -> None:
        """Called with each line of the job's log."""


class Log:
    """A watcher that writes to our own log."""

    def submitted(self, submission_id: str, link: str) -> None:
        """See :class:`Watcher`."""
        log.info("%s", link)

    def line(self, text: str) -> None:
        """See :class:`Watcher`."""
        log.info("%s", text)


@dataclass(frozen=True)
class Job:
    """One execution of a stage's entrypoint, in this process or on a cluster.

    Attributes:
        stage: name of the entrypoint's module.
        identity: of the dataset that the job publishes.
        recipe: URI of the resolved recipe.
        phase: index of the training phase.
        mlflow_run: id of the MLflow run that the job logs to.
        flow_run: id of the Prefect flow run.
        settings: the recipe's ``jobs``.
        reads: inputs by name that are not part of the identity.
    """

    stage: Entrypoint
    identity: Identity
    recipe: str
    home: Store
    phase: int = 0
    mlflow_run: str | None = None
    flow_run: str = ""
    settings: Jobs = field(default_factory=Jobs)
    reads: Mapping[str, str] = field(default_factory=dict)

    @property
    def module(self) -> str:
        """The module that ``python -m`` runs."""
        return f"ray_jobs.{self.stage}"

    @property
    def inputs(self) -> dict[str, str]:
        """Everything that the job reads, by name."""
        return {**self.identity.inputs, **self.reads}

    @property
    def arguments(self) -> list[str]:
        """The command-line arguments of the entrypoint."""
        arguments = ["--recipe", self.recipe, "--home", self.home.uri, "--phase", str(self.phase)]
        for name, uri in self.inputs.items():
            arguments += ["--inputs", f"{name}={uri}"]
        return arguments + (["--mlflow-run", self.mlflow_run] if self.mlflow_run else [])

    @property
    def entrypoint(self) -> str:
        """The shell command that starts the job."""
        return shlex.join(["python", "-m", self.module, *self.arguments])

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that the job's processes need: the same home and MLflow server as this process."""
        variables = {name: os.environ[name] for name in VERBOSITY if name in os.environ}
        variables[HOME_VARIABLE] = self.home.uri
        return variables | ({tracking.TRACKING_VARIABLE: tracking.tracking_uri()} if self.mlflow_run else {})

    @property
    def lease(self) -> str:
        """The name of the lease that a process must hold to run this job."""
        return f"{self.identity.stage}-{self.identity.fingerprint}"

    def attempt(self, number: int) -> str:
        """The submission id of an attempt."""
        return ledger.attempt(self.lease, number)

    def published(self) -> str | None:
        """The URI of the job's dataset; None while it is not published."""
        return published(self.home, self.identity)

    def run_here(self, watcher: Watcher) -> None:
        """Runs the job without a cluster; raises what the stage raises."""
        importlib.import_module(self.module).main(self.arguments)


def save_recipe(home: Store, recipe: Recipe) -> str:
    """Writes the resolved recipe to the home, where every job can read it; returns its URI."""
    key = f"recipes/{fingerprint(recipe)}.yaml"
    home.write(key, recipe.to_yaml().encode())
    return f"{home.uri}/{key}"
