"""The store's interface, tested with both backends: a local folder and a real S3 server on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmface.errors import DatasetError, InputError, ServiceError
from mmface.store import Store, s3
from mmface.store.folder import temporary


@pytest.fixture(params=["folder", "s3"])
def store(request, tmp_path) -> Iterator[Store]:
    if request.param == "folder":
        yield Store(tmp_path / "home")
    else:
        yield Store(request.getfixturevalue("s3_bucket")).child(request.node.name.replace("[", "-").rstrip("]"))


def test_write_read_list_delete(store: Store):
    assert store.write("a/b.txt", b"one")
    assert store.write("a/c.txt", b"two")
    assert store.write("ab.txt", b"three")
    assert store.read("a/b.txt") == b"one"
    assert [entry.key for entry in store.list("a")] == ["a/b.txt", "a/c.txt"]
    assert [entry.key for entry in store.list()] == ["a/b.txt", "a/c.txt", "ab.txt"]
    assert store.list("a")[0].size == 3
    store.delete("a/b.txt")
    store.delete("a/b.txt")
    assert not store.exists("a/b.txt")


def test_overwrite_and_first_writer_wins(store: Store):
    store.write("key", b"old")
    assert not store.write("key", b"new", if_absent=True)
    assert store.read("key") == b"old"
    assert store.write("key", b"new")
    assert store.read("key") == b"new"


def test_of_many_concurrent_writers_exactly_one_wins(store: Store):
    wins: list[int] = []
    barrier = threading.Barrier(6)

    def race(number: int) -> None:
        barrier.wait()
        if store.write("manifest.json", str(number).encode(), if_absent=True):
            wins.append(number)

    threads = [threading.Thread(target=race, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [store.read("manifest.json")] == [str(win).encode() for win in wins]


def test_a_folder_is_uploaded_with_all_its_files(store: Store, tmp_path):
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "in/deep/x").write_bytes(b"x")
    (tmp_path / "in/y").write_bytes(b"y")
    store.upload(tmp_path / "in", "up")
    assert {entry.key: store.read(entry.key) for entry in store.list()} == {"up/deep/x": b"x", "up/y": b"y"}


def test_a_large_file_is_uploaded_in_parts(store: Store, tmp_path, monkeypatch):
    monkeypatch.setattr("mmface.store.s3.PART", 5 * 2**20)
    data = os.urandom(12 * 2**20)
    (tmp_path / "large").write_bytes(data)
    store.write_file("deep/large", tmp_path / "large")
    assert store.read("deep/large") == data
    assert b"".join(store.chunks("deep/large", 2**22)) == data
    assert [entry.size for entry in store.list()] == [len(data)]


def test_deleting_and_sweeping_never_follow_a_linked_folder(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(b"precious")
    store = Store(tmp_path / "home")
    store.write("datasets/one/b", b"x")
    (tmp_path / "home/datasets/one/linked").symlink_to(tmp_path / "photos")
    assert [entry.key for entry in store.list(follow_links=True)] == ["datasets/one/b", "datasets/one/linked/a.png"]
    for entry in store.list("datasets"):
        store.delete(entry.key)
    store.sweep()
    assert (tmp_path / "photos/a.png").read_bytes() == b"precious"


def test_missing_key_and_bad_key(store: Store):
    with pytest.raises(DatasetError, match="not in"):
        store.read("nothing")
    with pytest.raises(InputError):
        store.read("../outside")


def test_unreachable_s3_is_a_service_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with pytest.raises(ServiceError, match="AWS_ENDPOINT_URL"):
        Store("s3://bucket/prefix").read("key")


def test_address_without_bucket():
    with pytest.raises(InputError, match="bucket"):
        Store("s3:///prefix")


def test_a_range_of_an_object_can_be_read(store: Store):
    data = bytes(range(256)) * 4096
    store.write("big", data)
    with store.open("big") as file:
        file.seek(-10, 2)
        assert file.read() == data[-10:]
        file.seek(1000)
        assert file.read(300_000) == data[1000:301_000]
    assert b"".join(store.chunks("big")) == data
    with pytest.raises(DatasetError, match="not in"):
        store.open("nothing")


def test_a_full_disk_is_a_clear_error_and_leaves_no_partial_file(tmp_path: Path):
    code = f"""
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        from mmface.errors import ServiceError
        from mmface.store import Store
        store = Store({str(tmp_path)!r})
        store.write("fits", b"x" * 1000)
        try:
            store.write("data/part", b"x" * 1_000_000)
        except ServiceError as error:
            print(error)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert "data/part cannot be written: File too large; free some space" in run.stdout
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["fits"]


def test_temporary_files_of_dead_writers_are_swept_and_of_live_ones_kept(tmp_path: Path):
    code = "import os; from mmface.store.folder import temporary; print(temporary(str(os.getpid())))"
    dead = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    (tmp_path / f"{dead}x").write_bytes(b"half")
    (tmp_path / f"{temporary(str(os.getpid()))}x").write_bytes(b"half")
    store = Store(tmp_path)
    assert store.list() == []
    store.sweep()
    assert [path.name for path in tmp_path.iterdir()] == [f"{temporary(str(os.getpid()))}x"]


def test_temporary_files_of_other_machines_are_swept_only_when_old(tmp_path: Path):
    store, pid, host = Store(tmp_path), 2**22 + 1, socket.gethostname()  # no process here has this id
    fresh = [f".tmp-{pid}-7-{'0' * 16}-x", f".tmp-{pid}-{host}-x", f".tmp-{pid}-other-{host}-x"]
    for name in fresh:
        (tmp_path / name).write_bytes(b"half")
        (tmp_path / f"{name}-old").write_bytes(b"half")
        os.utime(tmp_path / f"{name}-old", (time.time() - 90_000,) * 2)
    store.sweep()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(fresh)


def test_the_parts_of_a_killed_upload_are_swept_after_a_day(s3_bucket: str, monkeypatch: pytest.MonkeyPatch):
    import boto3

    client = boto3.client("s3")

    def begin(key: str) -> None:
        begun = client.create_multipart_upload(Bucket="faces", Key=key)
        client.upload_part(Bucket="faces", Key=key, UploadId=begun["UploadId"], PartNumber=1, Body=b"x")

    def begun() -> set[str]:
        return {one["Key"] for one in client.list_multipart_uploads(Bucket="faces").get("Uploads", ())}

    keys = {"swept/datasets/a/weights", "swept/datasets/b/weights", "swept-by-another/datasets/weights"}
    for key in keys:
        begin(key)
    store = Store(f"{s3_bucket}/swept")
    assert store.list() == []
    with monkeypatch.context() as patch:
        patch.setattr(s3, "LEFT_SECONDS", 100 * 365 * 86400.0)  # moto dates every upload 2010
        store.sweep()
        assert begun() == keys
    store.child("datasets/a").sweep()
    assert begun() == keys - {"swept/datasets/a/weights"}
    store.sweep()
    assert begun() == {"swept-by-another/datasets/weights"}


def test_a_sweep_without_permission_only_logs_a_warning(s3_bucket: str, caplog: pytest.LogCaptureFixture):
    with caplog.at_level("WARNING", logger="mmface.store.s3"):
        Store("s3://no-such-bucket/home").sweep()
    refused = "s3://no-such-bucket/home: S3 refused list_multipart_uploads: NoSuch"
    assert f"could not clean up unfinished uploads ({refused}" in caplog.text
    assert "s3:AbortMultipartUpload" in caplog.text
