"""Cluster mode on one machine: `mmface up`, a schedule retrains through every real server, `mmface down`."""

from __future__ import annotations

import stat
from pathlib import Path

import httpx
import pytest

from tests.end_state import UNDISTURBED, end_state
from tests.stack import (
    STAGES,
    Stack,
    ended,
    first_run,
    inside,
    mmface,
    pause,
    schedule,
    stack,
    upload_photographs,
    wait_for,
)


@pytest.mark.timeout(1800)
def test_a_schedule_retrains_on_the_cluster_and_the_champion_is_served(tmp_path: Path, request: pytest.FixtureRequest):
    with stack(tmp_path / "stack", "--set", "serve.follow_s=1") as up, inside(up.environment):
        check_refusals(up)
        upload_photographs(16, tmp_path / "photos")
        given = [part for one in up.settings() for part in ("--set", one)]
        deployed = up.mmface("deploy", *given)
        assert deployed.returncode == 0, deployed.stderr
        assert "no worker" not in deployed.stderr
        pause("watch/periodic")

        deployment = schedule("retrain/full")
        run = wait_for(lambda: first_run(deployment), 120, "the schedule")
        pause("retrain/full")  # once is enough
        state = wait_for(lambda: ended(run), 1200, "the retraining")
        assert state.is_completed(), f"{state.message}\n{up.log('worker')}"

        made = end_state()
        assert set(made.datasets) == STAGES
        assert made.versions == [("1", ("challenger", "champion"))]
        assert made.runs == ["FINISHED"]
        assert made.nothing_left
        check_that_every_stage_was_a_job(up)
        check_that_the_champion_is_served(up, tmp_path)
        seen, scratch = up.state()["seen"], Path(up.state()["scratch"])
        down = up.mmface("down", "--folder", str(up.folder))
        assert down.returncode == 0, down.stderr
    assert not [one for one in seen if alive(one)]
    assert not holders_of(up.environment["RAY_AUTH_TOKEN"])
    assert not scratch.exists()
    request.session.stash[UNDISTURBED] = made
    assert "no stack runs in" in mmface("down", "--folder", str(up.folder), environment=up.environment).stdout


def check_refusals(up: Stack) -> None:
    """Refused: a second stack in the folder, requests without the token, and other users reading the secrets."""
    again = up.mmface("up", "--folder", str(up.folder))
    assert again.returncode == 2
    assert "a stack runs in" in again.stderr
    address = up.environment["RAY_ADDRESS"]
    assert httpx.get(f"{address}/api/jobs/").status_code == 401
    wrong = {"Authorization": f"Bearer {'0' * 48}"}
    assert httpx.get(f"{address}/api/jobs/", headers=wrong).status_code in (401, 403)
    assert httpx.get(f"{up.environment['AWS_ENDPOINT_URL']}/mmface").status_code == 403
    for name in ("stack.env", "state.json"):
        assert stat.S_IMODE((up.folder / name).stat().st_mode) == 0o600


def check_that_every_stage_was_a_job(up: Stack) -> None:
    from flows.cluster.client import Cluster

    jobs = Cluster(up.environment["RAY_ADDRESS"]).jobs()
    assert {str(job.submission_id).removeprefix("mmface-").rsplit("-", 2)[0] for job in jobs} == {*STAGES, "warm"}
    assert {str(job.status.value) for job in jobs} == {"SUCCEEDED"}


def check_that_the_champion_is_served(up: Stack, folder: Path) -> None:
    from io import BytesIO

    from PIL import Image

    url = up.environment["MMFACE_SERVE_URL"]
    mask = next((folder / "photos" / "masks").iterdir())
    answer = httpx.post(
        f"{url}/v1/generate/mask",
        files={"condition": mask.read_bytes()},
        data={"prompt": "a face", "seed": "1"},
        headers={"Accept": "image/png"},
        timeout=120,
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Model-Version"] == "1"
    assert Image.open(BytesIO(answer.content)).size == (32, 32)


def alive(process: dict[str, object]) -> bool:
    from flows.stack.processes import Process

    return Process(**process).alive  # type: ignore[arg-type]


def holders_of(token: str) -> list[str]:
    """Command lines of the processes whose environment contains the token of the stack."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if token.encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    return found
