"""A corrupt photograph fails the images stage; repaired, it passes; published datasets do not change."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from mmface.data.portraits import write_collection
from mmface.datasets.dataset import open_dataset
from mmface.datasets.inventory import find, scan
from mmface.datasets.quarantine import by_reason, replay, set_aside
from mmface.errors import StageError
from mmface.store import Store
from ray_jobs import images

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_collection(tmp_path / "drawn", 6, 64, 0)
    folder = tmp_path / "drawn/images"
    first = min(folder.iterdir())
    sink = BytesIO()
    Image.open(first).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(sink, "JPEG", quality=95)
    (tmp_path / "whole.jpg").write_bytes(sink.getvalue())
    (folder / "cut.jpg").write_bytes(sink.getvalue()[:700])
    return folder


def arguments(home: Store, photos: Path, *more: str) -> list[str]:
    settings = [
        f"sources=[{{name: photos, images: {photos}}}]",
        "data.shard_rows=3",
        "data.workers=1",
        "data.min_size=32",
        *more,
    ]
    return ["--recipe", "demo", "--home", home.uri, *(part for one in settings for part in ("--set", one))]


def test_a_corrupt_photograph_is_quarantined_until_it_is_repaired(photos: Path, tmp_path: Path):
    home = Store(tmp_path / "home")
    with pytest.raises(StageError, match="1 of 7 rows were quarantined"):
        images.main(arguments(home, photos, "data.max_quarantined=0.01"))
    failed = find(scan(home), "images")
    assert failed.state == "unfinished"
    (reason,) = by_reason(row for rows in set_aside(home, failed).values() for row in rows)
    assert "cannot be decoded" in reason.message
    assert reason.uris == (f"{photos}/cut.jpg",)

    # Replayed while it is still corrupt: the same reason, and the same other rows.
    assert replay(home, failed).rows == 1
    assert not set_aside(home, find(scan(home), "images"))
    published = images.main(arguments(home, photos, "data.max_quarantined=0.5"))
    assert open_dataset(published).manifest.counts["quarantined"] == 1

    # The repaired file is a new input: the next run makes a new dataset, without a replay.
    (photos / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes())
    repaired = images.main(arguments(home, photos, "data.max_quarantined=0.01"))
    assert repaired != published
    manifest = open_dataset(repaired).manifest
    assert manifest.counts == {"in": 7, "out": 7, "quarantined": 0, "duplicates": 0, "filtered": 0}
    assert manifest.extra["computed"] == 1
    assert open_dataset(published).quarantine().num_rows == 1


def test_a_replay_of_a_published_dataset_computes_only_its_quarantined_rows(photos: Path, tmp_path: Path):
    home = Store(tmp_path / "home")
    settings = arguments(home, photos, "data.max_quarantined=0.5")
    published = images.main(settings)
    made = replay(home, find(scan(home), "images"))
    again = images.main([*settings, "--set", f"data.replay={{images: {made.number}}}"])
    assert again == f"{home.uri}/{made.key}" != published
    manifest = open_dataset(again).manifest
    assert (manifest.extra["computed"], manifest.extra["reused"]) == (1, 6)
    assert open_dataset(again).table().equals(open_dataset(published).table())
