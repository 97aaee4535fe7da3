"""Published datasets: invisible before the manifest is written, unchanged afterwards."""

from pathlib import Path

import pytest

from mmface.datasets.dataset import Publisher, check_counts, open_dataset, published, upstream
from mmface.datasets.manifest import Identity
from mmface.datasets.records import QUARANTINE
from mmface.errors import DatasetError, ServiceError
from mmface.store import Store
from mmface.store.tables import to_parquet


@pytest.fixture
def home(tmp_path) -> Store:
    return Store(tmp_path)


def identity(**changes: object) -> Identity:
    return Identity(**{"stage": "demo", "version": 1, "config": {"size": 64}, **changes})


def rows(*ids: str) -> bytes:
    return to_parquet([{"id": one, "uri": f"file/{one}"} for one in ids], QUARANTINE)


def test_round_trip_with_quarantine(home: Store):
    publisher = Publisher(home, identity())
    publisher.write("data/part-00001.parquet", rows("c"))
    publisher.write("data/part-00000.parquet", rows("a", "b"))
    publisher.write("quarantine/part-00000.parquet", rows("bad"))
    publisher.write("work/leftover", b"gone after publishing")
    uri = publisher.publish({"in": 4, "out": 3, "quarantined": 1}, extra={"shape": [1]})
    dataset = open_dataset(uri)
    assert dataset.table(["id"])["id"].to_pylist() == ["a", "b", "c"]
    assert dataset.quarantine()["id"].to_pylist() == ["bad"]
    assert dataset.manifest.extra == {"shape": [1]}
    assert [file.rows for file in dataset.parts()] == [2, 1]
    assert not home.list(f"{identity().key}/work")


def test_unpublished_folder_is_refused(home: Store):
    publisher = Publisher(home, identity())
    publisher.write("data/part-00000.parquet", rows("a"))
    assert published(home, identity()) is None
    with pytest.raises(DatasetError, match="never published"):
        open_dataset(publisher.store.uri)
    assert publisher.finished("data") == {"data/part-00000.parquet"}


def test_second_publisher_does_not_overwrite(home: Store):
    first, second = Publisher(home, identity()), Publisher(home, identity())
    first.publish({"in": 0}, extra={"who": "first"})
    second.publish({"in": 0}, extra={"who": "second"})
    assert open_dataset(first.store.uri).manifest.extra == {"who": "first"}


def test_inputs_are_found_in_a_home_that_was_moved(tmp_path: Path):
    old, other = Store(tmp_path / "old"), Store(tmp_path / "other")
    first = Publisher(old, identity()).publish({})
    far = Publisher(other, identity(stage="far")).publish({})
    second = Publisher(old, identity(stage="second", inputs={"demo": first, "far": far})).publish({})
    (tmp_path / "old").rename(tmp_path / "new")
    found = upstream(second.replace("/old/", "/new/"))
    assert [found[stage].uri for stage in ("demo", "far")] == [first.replace("/old/", "/new/"), far]


def test_reading_a_damaged_file_raises(home: Store):
    publisher = Publisher(home, identity())
    publisher.write("weights.bin", b"good")
    uri = publisher.publish({})
    Store(uri).write("weights.bin", b"evil")
    with pytest.raises(DatasetError, match="checksum"):
        open_dataset(uri).read("weights.bin")


def test_a_download_that_cannot_be_written_names_the_path(home: Store, tmp_path: Path):
    publisher = Publisher(home, identity())
    publisher.write("weights/net.bin", b"good")
    dataset = open_dataset(publisher.publish({}))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ServiceError, match=r"TMPDIR: .*/file/net.bin cannot be written: .*; make room or set TMPDIR"):
        dataset.download("weights", tmp_path / "file")


def test_counts_must_add_up():
    check_counts("demo", {"in": 5, "out": 2, "quarantined": 1, "duplicates": 1, "filtered": 1})
    with pytest.raises(DatasetError, match="do not add up"):
        check_counts("demo", {"in": 5, "out": 3})


def test_fingerprint_depends_on_content_not_on_place():
    one = identity(inputs={"images": "/here/datasets/images/abc"})
    assert one.fingerprint == identity(inputs={"images": "s3://there/datasets/images/abc"}).fingerprint
    assert one.fingerprint != identity(inputs={"images": "/here/datasets/images/abd"}).fingerprint
    assert identity(version=2).fingerprint != identity().fingerprint
    assert identity(weights={"vae": "x"}).fingerprint != identity().fingerprint


def test_equal_rows_give_equal_bytes():
    assert rows("a", "b") == rows("a", "b")
