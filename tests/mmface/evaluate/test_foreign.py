"""Images of other systems are matched to the rows of an evaluation set by name."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from mmface.datasets.dataset import Publisher, open_dataset
from mmface.datasets.manifest import Identity
from mmface.datasets.records import EVALSET
from mmface.errors import InputError
from mmface.evaluate.foreign import digest_files, match_files, open_painted, wanted_rows, write_rows
from mmface.store import Store
from mmface.store.tables import to_parquet

WANTED = {"a": ["mask", "sketch", "unconditional"], "b": ["mask"]}


def png(width: int = 64, height: int = 64) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (width, height), (200, 100, 50)).save(sink, "PNG")
    return sink.getvalue()


def test_files_are_matched_by_modality_and_row_and_the_others_are_named() -> None:
    found, unmatched = match_files(["mask/a.png", "mask/b.jpg", "mask/x.png", "rows.jsonl"], WANTED)
    assert found == {"a-mask": "mask/a.png", "b-mask": "mask/b.jpg"}
    assert unmatched == ["mask/x.png"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([], "holds no image"),
        (["notes.txt"], "holds no image"),
        (["a.png", "mask/c.png"], r"none of the 2 images \(a.png, mask/c.png\) is named after a row"),
        (["mask/a.png"], r"1 rows have no image \(b-mask\)"),
        (["mask/a.png", "mask/b.png", "unconditional/b.png", "sketch/b.png"], None),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(keys: list[str], message: str | None) -> None:
    if message is None:
        assert set(match_files(keys, WANTED)[0]) == {"a-mask", "b-mask"}
        return
    with pytest.raises(InputError, match=message) as caught:
        match_files(keys, WANTED)
    assert caught.value.field == "--images"
    assert "mmface evaluate --rows" in str(caught.value) or "paint every row" in str(caught.value)


def test_a_larger_square_is_reduced_and_other_sizes_are_refused() -> None:
    assert open_painted(png(128, 128), "mask/a.png", 64, 40).size == (64, 64)
    for width, height in ((64, 32), (32, 32)):
        with pytest.raises(InputError, match=f"{width} x {height} pixels; the evaluation needs squares of at least 64"):
            open_painted(png(width, height), "mask/a.png", 64, 40)
    with pytest.raises(InputError, match=r"mask/a\.png"):
        open_painted(png()[:90], "mask/a.png", 64, 40)


def test_the_digest_depends_on_names_and_bytes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("mask/a.png", png())
    store.write("mask/b.png", png(65, 65))
    both = {"a-mask": "mask/a.png", "b-mask": "mask/b.png"}
    assert digest_files(store, both) == digest_files(store, dict(reversed(both.items())))
    assert digest_files(store, both) != digest_files(store, {"b-mask": "mask/a.png", "a-mask": "mask/b.png"})


def test_the_rows_are_written_under_the_names_that_are_read(tmp_path: Path) -> None:
    publisher = Publisher(Store(tmp_path / "home"), Identity(stage="evalset", version=1, config={}))
    rows = [
        {"id": one, "mask": png(), "sketch": png(), "prompt": f"face {one}", "seed": 7, "modalities": kinds}
        for one, kinds in WANTED.items()
    ]
    publisher.write("data/part-00000.parquet", to_parquet(rows, EVALSET))
    evalset = open_dataset(publisher.publish({}))
    assert wanted_rows(evalset) == WANTED
    assert write_rows(evalset, tmp_path / "rows") == 2
    files = sorted(path.relative_to(tmp_path / "rows").as_posix() for path in (tmp_path / "rows").rglob("*.*"))
    assert files == ["mask/a.png", "mask/b.png", "rows.jsonl", "sketch/a.png"]
    lines = [json.loads(line) for line in (tmp_path / "rows" / "rows.jsonl").read_text().splitlines()]
    assert lines[1] == {"id": "b", "prompt": "face b", "seed": 7, "modalities": ["mask"]}
    assert set(match_files(files, WANTED)[0]) == {"a-mask", "b-mask", "a-sketch"}
