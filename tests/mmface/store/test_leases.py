"""Leases have one living owner for a name, on a folder and on S3."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from mmface.errors import StageError
from mmface.store import Entry, Store, leases
from mmface.store.leases import Lease, Owner, dead, held, holder, take

ME = Owner.this("run-1")
ELSEWHERE = Owner("another-host", 7, "1", "run-2")


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return Store(tmp_path)
    return Store(f"{request.getfixturevalue('s3_bucket')}/{tmp_path.name}")


def ended() -> Owner:
    """A process of this machine that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    owner = replace(ME, pid=process.pid, started="0", flow_run="run-0")
    process.wait()
    return owner


def leave(store: Store, name: str, owner: Owner) -> None:
    """Writes the lease that a killed owner leaves behind."""
    store.write(f"leases/{name}/00000000.json", json.dumps(asdict(owner)).encode())


def test_one_of_many_takes_a_lease_and_releases_it(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: take(store, "work", ME), range(8)))
    won = [one for one in got if isinstance(one, Lease)]
    assert len(won) == 1
    assert {one for one in got if isinstance(one, Owner)} == {ME}
    assert holder(store, "work") == ME
    won[0].release()
    assert holder(store, "work") is None
    again = take(store, "work", ME)
    assert isinstance(again, Lease)
    again.release()


def test_a_listing_that_shows_neither_the_old_nor_the_new_lease_gives_no_second_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process replaced the lease while the folder was read."""
    store.write("leases/work/00000007.json", json.dumps(asdict(ELSEWHERE)).encode())
    whole, calls = Store.list, []

    def first_misses(self: Store, prefix: str = "") -> list[Entry]:
        calls.append(prefix)
        return [] if len(calls) == 1 else list(whole(self, prefix))

    monkeypatch.setattr(Store, "list", first_misses)
    assert take(store, "work", ME) == ELSEWHERE
    assert [one.key for one in whole(store, "leases/work")] == ["leases/work/00000007.json"]


def test_machines_with_the_same_host_name_do_not_declare_each_other_dead(tmp_path: Path) -> None:
    """A container has its own process ids: here pid 1 is alive as well, but is another process."""
    code = """
        import json, sys
        from dataclasses import asdict
        from mmface.store.leases import Owner
        print(json.dumps(asdict(Owner.this("run-2"))), flush=True)
        print(Owner(**json.loads(sys.stdin.readline())).is_gone(), flush=True)
        sys.stdin.read()
    """
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", textwrap.dedent(code)]
    if shutil.which("unshare") is None or subprocess.run([*command[:4], "true"], check=False).returncode:
        pytest.skip("no process namespaces here")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        other = Owner(**json.loads(process.stdout.readline()) | {"reads": ()})
        assert (other.host, other.pid) == (ME.host, 1)
        leave(store := Store(tmp_path), "work", other)
        assert take(store, "work", ME) == other
        print(json.dumps(asdict(ended())), file=process.stdin, flush=True)
        assert process.stdout.readline() == "False\n"
        process.stdin.close()


def test_a_lease_of_another_boot_or_an_older_version_expires_only_by_its_heartbeat(store: Store) -> None:
    gone = asdict(ended())
    older = {name: gone[name] for name in ("host", "pid", "started", "flow_run")}
    later = {**gone, "machine": "0" * 16, "not known yet": 1}
    for name, content in {"older": older, "later": later}.items():
        store.write(f"leases/{name}/00000000.json", json.dumps(content).encode())
        found = take(store, name, ME)
        assert isinstance(found, Owner)
        assert (found.pid, found.flow_run) == (gone["pid"], "run-0")


def test_no_two_owners_write_the_same_bytes(tmp_path: Path) -> None:
    """After a lost response a store recognises its conditional write by the content."""
    assert Owner.this("run-1") != Owner.this("run-1")


def test_a_dead_process_owns_nothing_and_its_leases_are_listed(store: Store) -> None:
    leave(store, "work", ended())
    assert [(name, owner.flow_run) for name, owner in dead(store)] == [("work", "run-0")]
    lease = take(store, "work", ME)
    assert isinstance(lease, Lease)
    assert list(dead(store)) == []
    lease.release()


def test_a_lease_that_is_released_between_listing_and_reading_is_not_dead(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("back", "replaced"):
        leave(store, name, ended())
    listed = store.list("leases")
    store.write("leases/back/00000000.json", leases.FREE)
    store.delete("leases/replaced/00000000.json")
    monkeypatch.setattr(Store, "list", lambda self, prefix="": listed)
    assert list(dead(store)) == []


def test_an_owner_without_heartbeat_is_dead_by_the_clock_of_the_store(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(store, "work", ELSEWHERE)
    assert take(store, "work", ME) == ELSEWHERE
    monkeypatch.setattr(leases, "DEAD_AFTER_SECONDS", -2)
    lease = take(store, "work", ME)
    assert isinstance(lease, Lease)
    lease.release()


def test_an_owner_that_lost_its_lease_notices_and_does_not_release_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.02)
    store = Store(tmp_path)
    slow = take(store, "work", ME)
    assert isinstance(slow, Lease)
    slow.check()
    store.write("leases/work/00000001.json", json.dumps(asdict(ELSEWHERE)).encode())
    until(lambda: slow.lost)
    with pytest.raises(StageError, match="another process took over this work"):
        slow.check()
    slow.release()
    assert holder(store, "work") == ELSEWHERE


def test_waiting_ends_when_the_owner_has_finished_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "WAIT_SECONDS", 0.01)
    store = Store(tmp_path)
    leave(store, "work", ELSEWHERE)
    answers = iter([False, False, True])
    with held(store, "work", ME, finished=lambda: next(answers)) as lease:
        assert lease is None
    assert holder(store, "work") == ELSEWHERE


def until(true: Callable[[], bool]) -> None:
    import time

    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)
