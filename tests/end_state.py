"""What a retraining leaves in the store and in MLflow, in a form that can be compared (§6, §8)."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from mmface.datasets.dataset import Dataset, open_dataset
from mmface.datasets.inventory import scan
from mmface.store import Store, home

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
WALL_TIME = ("history.jsonl",)  # contains the duration of steps


@dataclass
class EndState:
    """The result of a retraining; two are equal when the same data, weights and versions were made.

    Attributes:
        datasets: fingerprint and content by stage.
        weights: SHA-256 of the trained transformer.
        versions: registered versions with their aliases.
        runs: status of each MLflow run.
        partial: datasets that are not published; should be empty.
        doubled_steps: metrics with two values for one step; should be empty.
        leftovers: working files of stages and runs; should be empty.
    """

    datasets: dict[str, tuple[str, dict[str, str]]]
    weights: str
    versions: list[tuple[str, tuple[str, ...]]]
    runs: list[str]
    partial: list[str] = field(default_factory=list)
    doubled_steps: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)

    @property
    def nothing_left(self) -> bool:
        """Whether there is no partial dataset, no doubled step and no working file."""
        return not [*self.partial, *self.doubled_steps, *self.leftovers]


UNDISTURBED = pytest.StashKey[EndState]()
"""Of a session: the end state of a retraining of the tiny recipe of :mod:`tests.stack` that nothing disturbed."""


def end_state() -> EndState:
    """The end state of ``MMFACE_HOME`` and ``MLFLOW_TRACKING_URI``."""
    place = home()
    held = scan(place)
    published = {one.stage: open_dataset(f"{place.uri}/{one.key}") for one in held if one.manifest is not None}
    trained = next(dataset for stage, dataset in published.items() if stage.startswith("train-"))
    runs, doubled = _tracked()
    return EndState(
        datasets={stage: (one.manifest.fingerprint, _content(one)) for stage, one in published.items()},
        weights=_checksums(trained)[WEIGHTS],
        versions=_versions(),
        runs=runs,
        partial=[one.key for one in held if one.manifest is None],
        doubled_steps=doubled,
        leftovers=_leftovers(place),
    )


def _checksums(dataset: Dataset) -> dict[str, str]:
    return {file.path: file.sha256 for file in dataset.manifest.files}


def _content(dataset: Dataset) -> dict[str, str]:
    return {path: digest for path, digest in _checksums(dataset).items() if not path.endswith(WALL_TIME)}


def _leftovers(place: Store) -> list[str]:
    working = [entry.key for entry in place.list("datasets") if "/work/" in entry.key]
    return working + [entry.key for entry in place.list("runs")]


def _versions() -> list[tuple[str, tuple[str, ...]]]:
    from mmface.bundles.registry import list_versions

    return [(one.version, one.aliases) for one in list_versions()]


def _tracked() -> tuple[list[str], list[str]]:
    from mmface.bundles.tracking import EXPERIMENT, open_tracking

    client = open_tracking()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    doubled = []
    for run in runs:
        for name in run.data.metrics:
            history = [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)]
            steps = {step for step, _ in history}
            # A retried release may log a metric of the whole model again with the same value; nothing else may.
            logged = len(set(history)) if len(steps) == 1 else len(history)
            if logged > len(steps):
                doubled.append(name)
    return [run.info.status for run in runs], doubled
