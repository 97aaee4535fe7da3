"""A stage on a real S3 server behind a faulty connection: no row or part is lost, doubled, cut or published twice."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mmface.datasets.dataset import Dataset, open_dataset, published
from mmface.errors import CredentialsError, ServiceError
from mmface.store import Store
from tests.faults.lab import Driver
from tests.faults.proxy import Plan, proxy
from tests.mmface.datasets import test_parts as parts

WORDS = [f"word{i:02d}" for i in range(12)]
HERE = Path(__file__).parent


@pytest.fixture
def bucket(s3_bucket: str, tmp_path: Path) -> str:
    """A prefix in the bucket for each test."""
    return f"{s3_bucket}/{tmp_path.name}"


@pytest.fixture
def reference(tmp_path: Path) -> Dataset:
    """The dataset of the same rows and stage on a local folder, without faults."""
    home = Store(tmp_path / "reference")
    return parts.run(home, parts.publish_source(home, parts.texts(*WORDS), 5))[0]


@pytest.mark.parametrize(
    "plan",
    [
        Plan(error=0.1, seed=1),
        Plan(lost=0.1, seed=2),
        Plan(cut=0.1, seed=3),
        Plan(error=0.04, lost=0.04, cut=0.04, slow=0.3, seed=4),
    ],
    ids=["500-503", "answer-lost", "cut", "all"],
)
def test_a_faulty_connection_does_not_change_the_dataset(bucket, s3_server, reference, monkeypatch, plan: Plan):
    with proxy(s3_server, plan) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        home = Store(bucket)
        dataset, stage = parts.run(home, parts.publish_source(home, parts.texts(*WORDS), 5))
        assert parts.content(dataset) == parts.content(reference)
        assert len(stage.mapped) == len(WORDS)
        assert dataset.table(["id"]).num_rows == len(WORDS)
        grown, stage = parts.run(home, parts.publish_source(home, parts.texts(*WORDS, "new"), 5))
        assert stage.mapped == ["id-new"]
        assert grown.manifest.counts["out"] == len(WORDS) + 1
    assert sum(plan.seen[name] for name in ("500", "503", "lost", "cut", "slow")) > 5, plan.seen


def drive(home: str, source: str, **environment: str) -> subprocess.Popen[str]:
    """Starts the stage in its own process, which prints the address of the dataset and the number of mapped rows."""
    code = f"""
        import sys; sys.path.insert(0, {str(HERE.parents[1])!r})
        from tests.mmface.datasets.test_parts import run
        from mmface.store import Store
        dataset, stage = run(Store({home!r}), {source!r})
        print(dataset.uri, len(stage.mapped))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})


def test_a_stage_killed_just_before_publishing_resumes_without_computing_a_row_again(bucket, s3_server, reference):
    source = parts.publish_source(Store(bucket), parts.texts(*WORDS), 5)
    victims: list[subprocess.Popen[str]] = []

    def kill(method: str, path: str) -> bool:
        if method == "PUT" and path.endswith("manifest.json"):
            victims[0].kill()
            return False
        return True

    with proxy(s3_server, Plan(passes=kill)) as address:
        victims.append(drive(bucket, source, AWS_ENDPOINT_URL=address))
        victims[0].communicate()
        assert victims[0].returncode == -signal.SIGKILL
    assert published(Store(bucket), parts.identity(source)) is None
    again = drive(bucket, source)
    uri, mapped = again.communicate()[0].split()
    assert again.returncode == 0
    assert mapped == "0"
    assert parts.content(open_dataset(uri)) == parts.content(reference)


def test_a_stage_killed_at_any_request_resumes_with_the_same_content(bucket, s3_server, reference):
    source = parts.publish_source(Store(bucket), parts.texts(*WORDS), 5)
    victims: list[subprocess.Popen[str]] = []
    left = [0]

    def kill(method: str, path: str) -> bool:
        left[0] -= method in ("PUT", "DELETE")
        if not left[0]:
            victims[-1].kill()
        return left[0] != 0

    with proxy(s3_server, Plan(passes=kill)) as address:
        for writes in (1, 2, 3, 5, 9, 1000):
            left[0] = writes
            victims.append(drive(bucket, source, AWS_ENDPOINT_URL=address))
            victims[-1].communicate()
    assert [victim.returncode for victim in victims] == [-signal.SIGKILL] * 5 + [0]
    dataset = open_dataset(f"{bucket}/{parts.identity(source).key}")
    assert parts.content(dataset) == parts.content(reference)
    assert dataset.manifest.counts["in"] == len(WORDS)


def test_of_two_simultaneous_runs_one_publishes_and_both_return_its_dataset(bucket, s3_server, reference):
    source = parts.publish_source(Store(bucket), parts.texts(*WORDS), 5)
    plan = Plan(slow=0.04, seed=5)
    with proxy(s3_server, plan) as address:
        runs = [drive(bucket, source, AWS_ENDPOINT_URL=address) for _ in range(2)]
        answers = [run.communicate()[0].split()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert answers[0] == answers[1]
    manifests = sorted(
        status for method, path, status in plan.answers if (method, path[-13:]) == ("PUT", "manifest.json")
    )
    assert manifests in ([200], [200, 412])
    dataset = open_dataset(answers[0])
    assert parts.content(dataset) == parts.content(reference)
    for file in dataset.manifest.files:
        dataset.read(file.path)


def test_a_missing_bucket_and_missing_permissions_are_clear_errors(s3_bucket, s3_server, monkeypatch):
    with pytest.raises(ServiceError, match="the bucket does not exist; create it"):
        Store("s3://nowhere/home").write("key", b"")
    denied = Plan(deny="/faces/")
    with proxy(s3_server, denied) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        store = Store(s3_bucket)
        for refused in (lambda: store.write("key", b""), lambda: store.read("key"), lambda: store.exists("key")):
            with pytest.raises(CredentialsError, match="these credentials lack a permission"):
                refused()


@pytest.mark.timeout(3600)
def test_stages_on_ray_read_and_write_s3_over_a_faulty_connection(bucket, s3_server, tmp_path, monkeypatch):
    plan = Plan(error=0.03, lost=0.03, cut=0.03, slow=0.1, seed=6)
    settings = ["portraits.n=12", "portraits.size=64", "data.shard_rows=4", "data.min_size=32"]
    with proxy(s3_server, plan) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        (photos,) = Driver.start("portraits", job(bucket, settings), tmp_path).finish().uris
        sources = f"sources=[{{name: photos, images: {photos}/images, masks: {photos}/masks}}]"
        run = Driver.start("images", job(bucket, [*settings, sources]), tmp_path).finish()
        assert run.uris, run.log
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    store, dataset = Store(photos), open_dataset(run.uris[0])
    ids = sorted(hashlib.sha256(store.read(entry.key)).hexdigest() for entry in store.list("images"))
    assert sorted(dataset.table(["id"])["id"].to_pylist()) == ids
    assert dataset.manifest.counts["in"] == len(ids) == 12
    for file in dataset.manifest.files:
        dataset.read(file.path)
    assert sum(plan.seen[name] for name in ("500", "503", "lost", "cut", "slow")) > 5, plan.seen


def job(home: str, settings: list[str]) -> list[str]:
    """The command-line arguments of an entrypoint."""
    return ["--recipe", "demo", "--home", home, *(part for one in settings for part in ("--set", one))]
