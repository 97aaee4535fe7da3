"""2,000 mutated files: the stage never crashes, and each becomes a row or is quarantined with its reason."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from mmface.config import Collection
from mmface.errors import InputError
from mmface.imaging.labels import mask_from_png
from tests.mmface.data.sources.made import read, write
from tests.mutants import mutants


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow warns about metadata that it repairs
def test_2000_mutated_files_become_rows_or_are_quarantined(tmp_path: Path):
    write(tmp_path / "images", {f"{number:04}.png": data for number, (_, data) in enumerate(mutants(2000))})
    result = read(Collection(name="photos", images=str(tmp_path / "images")))
    assert sorted(row["uri"][-8:] for row in (*result.rows, *result.quarantined)) == [
        f"{n:04}.png" for n in range(2000)
    ]
    assert len(result.rows) > 800
    assert len(result.quarantined) > 300
    assert {row["error"] for row in result.quarantined} == {"invalid_input:image"}
    assert all(row["message"] and "\n" not in row["message"] for row in result.quarantined)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_mutated_files_are_masks_or_refused():
    read = 0
    for what, data in mutants(500, seed=1):
        with suppress(InputError):
            assert mask_from_png(data).max() <= 18, what
            read += 1
    assert 0 < read < 200
