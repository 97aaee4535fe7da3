"""Two retrainings of the same recipe and photographs at once share the work; a third one, of another recipe, is apart.

Three flows on a stack take minutes, so this is for `make faults`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack import Stack, inside, stack, upload_photographs

STAGES = {"images", "conditions", "captions", "text", "latents-32", "train-0-32", "samples", "bundle"}
TWINS = ("twin", "other twin")

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif("FAULT_MOMENTS" not in os.environ, reason="make faults runs it"),
]


def test_twins_share_and_a_stranger_is_left_alone(tmp_path: Path):
    with stack(tmp_path / "stack") as up, inside(up.environment):
        upload_photographs(16, tmp_path / "photos")
        same, others = up.settings(), up.settings(seed=1, **{"data.min_size": 33})
        flows = {name: retrain(up, given, tmp_path / name) for name, given in zip(TWINS, (same, same), strict=True)}
        flows["stranger"] = retrain(up, others, tmp_path / "stranger")
        codes = {name: flow.wait(1800) for name, flow in flows.items()}
        told = {name: (tmp_path / name).read_text() for name in flows}
        assert codes == dict.fromkeys(flows, 0), told

        made = stages_of_jobs(up)
        assert sorted(made) == sorted([*STAGES, *STAGES, "warm", "warm"]), (
            "a stage of the twins was done twice, or one is missing"
        )
        assert any("which works on it" in told[name] for name in TWINS)
        assert versions(told["twin"]) == versions(told["other twin"]) != versions(told["stranger"])
        assert runs() == ["FINISHED", "FINISHED"]


def retrain(up: Stack, settings: list[str], log: Path) -> subprocess.Popen[bytes]:
    """`mmface retrain` on its way; what it says goes into a file."""
    given = [part for one in settings for part in ("--set", one)]
    command = [sys.executable, "-m", "flows.cli", "retrain", *given]
    with log.open("wb") as sink:
        return subprocess.Popen(command, env=up.environment, stdout=sink, stderr=subprocess.STDOUT)


def stages_of_jobs(up: Stack) -> list[str]:
    """The stage of each job that the cluster was given; all have succeeded at the first attempt."""
    from flows.cluster.client import Cluster

    jobs = Cluster(up.environment["RAY_ADDRESS"]).jobs()
    assert {str(job.status.value) for job in jobs} == {"SUCCEEDED"}
    names = [str(job.submission_id).removeprefix("mmface-").rsplit("-", 2) for job in jobs]
    assert {attempt for _, _, attempt in names} == {"0"}
    return [stage for stage, _, _ in names]


def versions(told: str) -> str:
    """The registered version that a retraining says it ended with."""
    return next(line.split()[1] for line in told.splitlines() if line.startswith("version "))


def runs() -> list[str]:
    """How the MLflow runs ended."""
    from mmface.bundles.tracking import EXPERIMENT, open_tracking

    client = open_tracking()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return [run.info.status for run in client.search_runs([experiment.experiment_id])]
