"""Promotions and a rollback at once, in processes that are killed: one winner, a whole record, no ungated champion."""

from __future__ import annotations

from pathlib import Path

from mmface.store import Store
from tests.flows.races import Arena


def test_two_promotions_and_a_rollback_at_once(registry_home: Store, tmp_path: Path) -> None:
    """``python -m tests.benchmarks.moves`` does it 50 times, on SQLite and on MLflow's server."""
    arena = Arena(tmp_path)
    for number in range(3):
        arena.round(number, kills=number > 0)
