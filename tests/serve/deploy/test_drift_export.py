"""A replica exports the stored figures of drift, and keeps counts of prompts only where the recipe says so."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from mmface.config import Serve
from mmface.data.prompt_counts import FOLDER, GROUP, OPEN, read_counts
from mmface.evaluate.drift import Measured, compare, write_measured
from mmface.store import Store
from serve.deploy import drift
from serve.deploy.drift import DriftExport

WINDOW_S = 0.001
Figures = list[tuple[str, float, bool]]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("MMFACE_HOME", str(tmp_path))
    return Store(tmp_path)


def exporter(shown: Figures, window: float | None = None) -> DriftExport:
    settings = Serve(prompt_counts_s=window)
    return DriftExport(settings, lambda kind, distance, drifted: shown.append((kind, distance, drifted)))


def serve_prompts(export: DriftExport) -> None:
    for number in range(4 * OPEN * GROUP):
        export.count(f"a face with number {'x' * number} hair")


def test_stored_figures_become_gauges_and_those_without_a_distance_do_not(place: Store) -> None:
    rows = np.random.default_rng(0).normal(size=(80, 3))
    far, few = compare(rows[:40] + 9, rows[40:], 0.99, 0.02), compare(rows[:1], rows[40:], 0.99, 0.02)
    facts = {"content": "c", "training": "t", "version": "1", "announced": True, "at": ""}
    write_measured(place, "mmface-dit", {"photographs": Measured(drift=far, **facts)})
    shown: Figures = []
    export = exporter(shown)
    asyncio.run(export.export())
    assert shown == [("photographs", far.distance, True)]
    write_measured(place, "mmface-dit", {"prompts": Measured(drift=few, **facts)})
    asyncio.run(export.export())
    assert shown[1:] == [("photographs", 0.0, False)], "a new champion has learnt them"
    asyncio.run(export.export())
    assert len(shown) == 2


def test_by_default_nothing_of_a_prompt_is_kept(place: Store) -> None:
    export = exporter([])
    serve_prompts(export)
    asyncio.run(export.write())
    assert place.list() == []


def test_counts_are_written_when_the_window_is_over(place: Store) -> None:
    late, due = exporter([], 3600.0), exporter([], WINDOW_S)
    for export in (late, due):
        serve_prompts(export)
        asyncio.run(export.write())
    (file,) = place.list(FOLDER)
    newest, counts = read_counts(place, "mmface-dit", 500)
    assert file.key.endswith(newest)
    assert len(counts) >= 3 * OPEN


def test_a_store_that_cannot_be_used_ends_nothing(
    place: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(drift, "EXPORT_S", 0.01)
    monkeypatch.setenv("MMFACE_HOME", "ftp://nowhere")
    export = exporter([], WINDOW_S)

    async def follow() -> None:
        task = asyncio.create_task(export.follow())
        while "serve: drift" not in caplog.text:
            await asyncio.sleep(0.01)
        assert not task.done()
        task.cancel()

    asyncio.run(follow())
