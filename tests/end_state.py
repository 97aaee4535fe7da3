"""What a retraining has left behind, in a form that two of them can be compared by (§6, §8)."""

from __future__ import annotations

from dataclasses import dataclass, field

from mmface.datasets.dataset import Dataset, open_dataset
from mmface.datasets.inventory import scan
from mmface.store import Store, home

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
WALL_TIME = ("history.jsonl",)  # says how long steps took


@dataclass
class EndState:
    """Two are equal when the same was made.

    Attributes:
        datasets: fingerprint and content by stage.
        weights: SHA-256 of the trained transformer.
        versions: registered versions with their aliases.
        runs: status of each MLflow run.
        partial, doubled_steps, leftovers: what there should be nothing of; see :func:`end_state`.
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
        """No partial dataset, no step told twice, no scratch of a run."""
        return not [*self.partial, *self.doubled_steps, *self.leftovers]


def end_state() -> EndState:
    """Of ``MMFACE_HOME`` and ``MLFLOW_TRACKING_URI``; partial datasets, doubled metric steps and run folders named."""
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
            # A figure of the whole model may be told again by a second try of the release, but not otherwise.
            told = len(set(history)) if len(steps) == 1 else len(history)
            if told > len(steps):
                doubled.append(name)
    return [run.info.status for run in runs], doubled
