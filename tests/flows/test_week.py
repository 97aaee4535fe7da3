"""A week of nightly retrainings with bad nights among them, with real models that learn in seconds."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import pytest

from flows.cli.command_line import main
from mmface.store import HOME_VARIABLE
from tests.benchmarks.month import PATTERN, SIZES, judge, live_through


def retrain(settings: Sequence[str]) -> None:
    assert main(["retrain", "--recipe", "demo", *(part for one in settings for part in ("--set", one))]) == 0


@pytest.mark.timeout(1800)  # seven nights of up to two minutes, beside the other half of the suite
@pytest.mark.usefixtures("ray_session", "prefect_server")
def test_a_week_serves_no_bad_version_and_every_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    nights = [live_through(tmp_path, number, Namespace(**SIZES), retrain) for number in range(len(PATTERN))]
    assert all(judge(nights)), nights
