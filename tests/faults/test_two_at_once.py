"""Two simultaneous retrainings of the same recipe and photographs share their work; one of another recipe does not.

Three flows on a stack take minutes, so only `make faults` runs this.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack import STAGES, Stack, inside, stack, upload_photographs

TWINS = ("twin", "other twin")

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif("FAULT_MOMENTS" not in os.environ, reason="run by make faults"),
]


def test_equal_retrainings_share_their_jobs_and_another_recipe_has_its_own(tmp_path: Path):
    with stack(tmp_path / "stack") as up, inside(up.environment):
        upload_photographs(16, tmp_path / "photos")
        same, others = up.settings(), up.settings(seed=1, **{"data.min_size": 33})
        flows = {name: retrain(up, given, tmp_path / name) for name, given in zip(TWINS, (same, same), strict=True)}
        flows["stranger"] = retrain(up, others, tmp_path / "stranger")
        codes = {name: flow.wait(1800) for name, flow in flows.items()}
        logs = {name: (tmp_path / name).read_text() for name in flows}
        assert codes == dict.fromkeys(flows, 0), logs

        made = stages_of_jobs(up)
        assert sorted(made) == sorted([*STAGES, *STAGES, "warm", "warm"]), (
            "a stage of the twins ran twice, or one is missing"
        )
        assert any("which works on it" in logs[name] for name in TWINS)
        assert version(logs["twin"]) == version(logs["other twin"]) != version(logs["stranger"])
        assert runs() == ["FINISHED", "FINISHED"]


def retrain(up: Stack, settings: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Starts `mmface retrain` with its output in a file."""
    given = [part for one in settings for part in ("--set", one)]
    command = [sys.executable, "-m", "flows.cli", "retrain", *given]
    with log.open("wb") as sink:
        return subprocess.Popen(command, env=up.environment, stdout=sink, stderr=subprocess.STDOUT)


def stages_of_jobs(up: Stack) -> list[str]:
    """The stage of each job of the cluster; checks that all succeeded at the first attempt."""
    from flows.cluster.client import Cluster

    jobs = Cluster(up.environment["RAY_ADDRESS"]).jobs()
    assert {str(job.status.value) for job in jobs} == {"SUCCEEDED"}
    names = [str(job.submission_id).removeprefix("mmface-").rsplit("-", 2) for job in jobs]
    assert {attempt for _, _, attempt in names} == {"0"}
    return [stage for stage, _, _ in names]


def version(log: str) -> str:
    """The registered version that a retraining reports at its end."""
    return next(line.split()[1] for line in log.splitlines() if line.startswith("version "))


def runs() -> list[str]:
    """The final status of each MLflow run."""
    from mmface.bundles.tracking import EXPERIMENT, open_tracking

    client = open_tracking()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return [run.info.status for run in client.search_runs([experiment.experiment_id])]
