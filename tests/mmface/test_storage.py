"""One contract, two backends: a local folder and a real S3 server on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from mmface.errors import DatasetError, InputError, ServiceError
from mmface.storage import Store


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


def test_of_many_racers_exactly_one_publishes(store: Store):
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


def test_folders_travel_whole(store: Store, tmp_path):
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "in/deep/x").write_bytes(b"x")
    (tmp_path / "in/y").write_bytes(b"y")
    store.upload(tmp_path / "in", "up")
    out = store.download("up", tmp_path / "out")
    assert (out / "deep/x").read_bytes() == b"x"
    assert (out / "y").read_bytes() == b"y"


def test_missing_key_and_bad_key(store: Store):
    with pytest.raises(DatasetError, match="not in"):
        store.read("nothing")
    with pytest.raises(InputError):
        store.read("../outside")


def test_dead_s3_is_a_service_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with pytest.raises(ServiceError, match="AWS_ENDPOINT_URL"):
        Store("s3://bucket/prefix").read("key")


def test_address_without_bucket():
    with pytest.raises(InputError, match="bucket"):
        Store("s3:///prefix")
