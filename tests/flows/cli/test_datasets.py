"""The commands ``mmface datasets``, ``quarantine`` and ``estimate``."""

from __future__ import annotations

import os
from pathlib import Path

import boto3
import pytest

from flows.cli.command_line import main
from flows.cluster import ledger
from flows.cluster.jobs import Job
from flows.cluster.runner import run_job
from mmface.bundles import registry
from mmface.datasets.dataset import Publisher
from mmface.datasets.manifest import Identity
from mmface.datasets.records import QUARANTINE
from mmface.errors import StageError
from mmface.store import Store
from mmface.store.tables import to_parquet


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MMFACE_HOME", str(tmp_path / "home"))
    return Store(tmp_path / "home")


def publish(home: Store, stage: str, size: int = 0, aside: int = 0, **inputs: str) -> str:
    publisher = Publisher(home, Identity(stage=stage, version=1, config={"size": size}, inputs=inputs))
    publisher.write("data/part-0.parquet", to_parquet([{"id": "x"}], QUARANTINE))
    if aside:
        row = {"uri": "photos/cut.jpg", "stage": stage, "error": "invalid_input:image", "message": "cannot be decoded"}
        publisher.write(
            "quarantine/part-0.parquet", to_parquet([{"id": str(i), **row} for i in range(aside)], QUARANTINE)
        )
    return publisher.publish({"in": 1 + aside, "out": 1, "quarantined": aside})


def name(uri: str) -> str:
    return "/".join(uri.split("/")[-2:])


def test_list_show_and_verify(home: Store, capsys: pytest.CaptureFixture[str]) -> None:
    images = publish(home, "images")
    conditions = publish(home, "conditions", images=images)

    assert main(["datasets", "list"]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert "published" in rows[name(images)]
    assert "newest" in rows[name(images)]
    assert "2 datasets" in out
    assert not (Path(home.uri) / "mlflow.db").exists()  # listing creates no database

    assert main(["datasets", "show", "conditions"]) == 0
    out = capsys.readouterr().out
    assert f'  {name(conditions)}  in 1, out 1\n    {name(images)}  in 1, out 1  source {{"size": 0}}' in out

    assert main(["datasets", "verify"]) == 0
    Store(images).write("data/part-0.parquet", b"rotten")
    capsys.readouterr()
    assert main(["datasets", "verify"]) == 1
    out = capsys.readouterr().out
    assert f"DAMAGED  datasets/{name(images)}/data/part-0.parquet: 6 bytes instead of" in out
    assert f"ok       {name(conditions)}" in out
    assert main(["datasets", "verify", "conditions"]) == 0
    assert main(["datasets", "verify", "nothing"]) == 2


def test_gc_keeps_the_datasets_of_a_registered_model(
    home: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served, loose = publish(home, "images", 1), publish(home, "images", 2)
    newest = publish(home, "images", 3)
    for second, uri in enumerate((served, loose, newest)):
        os.utime(Path(uri) / "manifest.json", (1000 + second, 1000 + second))
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "lineage.json").write_text(f'{{"images": {{"dataset": "datasets/{name(served)}"}}}}')
    registry.register_bundle(bundle, registry.start_run("r"))

    assert main(["datasets", "list"]) == 0
    assert "model mmface-dit 1" in capsys.readouterr().out
    assert main(["datasets", "gc"]) == 0
    out = capsys.readouterr().out
    assert f"would remove  {name(loose)}" in out
    assert "dry run" in out
    assert Path(loose).is_dir()
    assert main(["datasets", "gc", "--delete"]) == 0
    assert f"removed  {name(loose)}" in capsys.readouterr().out
    assert not Path(loose).exists()
    assert (Path(served) / "manifest.json").exists()
    assert (Path(newest) / "manifest.json").exists()


def test_gc_keeps_the_datasets_that_running_work_reads(home: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """A running job holds a lease; its dataset has no file yet, and each stage has newer datasets."""
    images = [publish(home, "images", size) for size in range(3)]
    captions = [publish(home, "captions", images=uri) for uri in images[:2]]
    waiting = [publish(home, "latents-64", size, images=images[1]) for size in (1, 2)]
    for second, uri in enumerate((*images, *captions, *waiting)):
        os.utime(Path(uri) / "manifest.json", (1000 + second, 1000 + second))
    made = Identity(stage="text", version=1, config={}, inputs={"captions": captions[0]})
    before = name(waiting[0]).replace("/", "-")  # made by an earlier job of the flow run
    ledger.record(home, ledger.Entry(f"mmface-{before}-0", "latents-64", [], "", "", "run-1", before))

    def work() -> None:
        assert main(["datasets", "gc", "--delete", "--keep-days", "0"]) == 0
        assert "0 of 7 datasets" in capsys.readouterr().out
        assert main(["datasets", "list"]) == 0
        lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
        for uri in (images[0], captions[0], waiting[0]):
            assert "in work by flow run run-1, process" in lines[name(uri)]
        raise StageError("the stage fails here")

    with pytest.raises(StageError, match="the stage fails here"):
        run_job(Job("text", made, "recipe.yaml", home, flow_run="run-1"), slot=work)
    assert main(["datasets", "gc", "--delete", "--keep-days", "0"]) == 0
    assert sorted(name(uri) for uri in (images[0], captions[0], waiting[0])) == sorted(
        line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("removed")
    )


def test_gc_keeps_young_datasets_and_counts_them(home: Store, capsys: pytest.CaptureFixture[str]) -> None:
    uris = [publish(home, "images", 1), publish(home, "images", 2)]
    os.utime(Path(uris[0]) / "manifest.json", (1000, 1000))
    os.utime(Path(uris[0]) / "manifest.json")
    assert main(["datasets", "gc", "--delete"]) == 0
    assert "1 more are kept only for their age (--keep-days 7)" in capsys.readouterr().out
    assert main(["datasets", "gc", "--delete", "--keep-days", "0"]) == 0
    assert sum(Path(uri).exists() for uri in uris) == 1
    assert main(["datasets", "gc", "--keep-days", "-1"]) == 2


def test_a_home_on_s3_lists_without_mlflow_and_removes_nothing(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MMFACE_HOME", f"{s3_bucket}/commands")
    uri = publish(Store(f"{s3_bucket}/commands"), "images")
    assert main(["datasets", "list"]) == 0
    out = capsys.readouterr().out
    assert name(uri) in out
    assert "references of models are not shown (MLFLOW_TRACKING_URI: " in out
    assert main(["datasets", "verify"]) == 0
    assert main(["datasets", "gc", "--delete"]) == 2
    assert "mmface: error: MLFLOW_TRACKING_URI: " in capsys.readouterr().err
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    client = boto3.client("s3")
    client.create_multipart_upload(Bucket="faces", Key="commands/runs/train/step-00000001/weights")  # of a killed job
    assert main(["datasets", "gc", "--delete"]) == 0
    assert not client.list_multipart_uploads(Bucket="faces", Prefix="commands/").get("Uploads")


def test_quarantine_list_groups_rows_by_reason_and_replay_without_rows_fails(
    home: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(home, "images")
    conditions = publish(home, "conditions", aside=7)
    assert main(["quarantine", "list", "--limit", "2"]) == 0
    out = capsys.readouterr().out
    assert f"{name(conditions)}  published, 7 quarantined rows" in out
    assert "7x invalid_input:image: cannot be decoded" in out
    assert out.count("photos/cut.jpg") == 2
    assert "and 5 more" in out
    assert main(["quarantine", "list", "--stage", "images"]) == 0
    assert capsys.readouterr().out.startswith("0 quarantined rows")
    assert main(["quarantine", "replay", "images"]) == 2
    assert "nothing to replay" in capsys.readouterr().err


def test_estimate_shows_a_cost_only_for_a_given_price(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["estimate", "--recipe", "demo", "--images", "100000", "--gpus", "8xA100"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "USD: no price; give --usd-per-gpu-hour" in out
    assert out.split("\ntotal")[1].split()[3] == "-"
    assert main([*command, "--usd-per-gpu-hour", "2"]) == 0
    total = capsys.readouterr().out.split("\ntotal")[1].split()
    assert float(total[3]) == pytest.approx(16 * float(total[0]), abs=16 * 0.005)
    assert main([*command, "--usd-per-gpu-hour", "-1"]) == 2
