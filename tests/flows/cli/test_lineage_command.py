"""The command ``mmface lineage``, with a real MLflow on SQLite and published datasets."""

from __future__ import annotations

import json
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.cli.command_line import main
from mmface import plan
from mmface.bundles import registry
from mmface.data.portraits import draw
from mmface.store import Store
from serve.pictures.provenance import Provenance, encode
from serve.pictures.watermark import Mark, embed, name_code
from tests.lineages import publish_chain
from tests.openlineage_schemas import check_event

FACE = draw(0, 128).image
MADE = Provenance(7, "abc", "mmface-dit", "1", 20, 2.5, "euler")


@pytest.fixture(scope="module")
def template(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A home whose champion, version 1, was made from the datasets with these URIs; tests work on copies."""
    root = tmp_path_factory.mktemp("template")
    (root / "home").mkdir()
    shutil.copy(migrated, root / "home" / "mlflow.db")
    uris = publish_chain(Store(root / "home"))
    lineage = plan.lineage(uris["train-0-32"]) | {"origin": "a test"}
    (root / "bundle").mkdir()
    (root / "bundle" / "lineage.json").write_text(json.dumps(lineage))
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("MLFLOW_TRACKING_URI", raising=False)
        environment.setenv("MMFACE_HOME", str(root / "home"))
        version = registry.register_bundle(root / "bundle", registry.start_run("retrain-demo"))
        registry.set_alias(registry.MODEL, "champion", version)
    return root / "home", uris


@pytest.fixture(autouse=True)
def made(template: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """URIs of the datasets by stage, in this test's own home."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MMFACE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(template[0], tmp_path / "home")
    return {stage: uri.replace(str(template[0]), str(tmp_path / "home")) for stage, uri in template[1].items()}


def key(uri: str) -> str:
    return "/".join(uri.split("/")[-2:])


def write(data: bytes, name: str = "face.png") -> str:
    Path(name).write_bytes(data)
    return name


@pytest.mark.parametrize("picture", ["png", "webp", "jpeg"])
def test_an_image_leads_to_its_collections(
    picture: str, made: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lineage", write(encode(FACE, MADE, picture), f"face.{picture}")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"face.{picture}: made by version 1 of mmface-dit, says its metadata" in out
    assert "seed 7, request_id abc, num_inference_steps 20, guidance_scale 2.5, sampler euler" in out
    assert "mmface-dit 1 (champion)" in out
    assert "run retrain-demo" in out
    assert "origin a test" in out
    assert f"{key(made['images'])} 5 in, 3 out, 1 quarantined, 1 duplicates" in out
    assert "studio 3 CC-BY-4.0 s3://photos/studio" in out
    assert "street 2 CC0-1.0 /data/street" in out


def test_an_image_without_metadata_is_known_by_its_watermark(
    made: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    sink = BytesIO()
    Image.fromarray(embed(FACE, Mark(name_code("mmface-dit"), 1))).save(sink, "JPEG", quality=90)
    assert main(["lineage", write(sink.getvalue(), "face.jpg"), "--json"]) == 0
    known = json.loads(capsys.readouterr().out)
    assert known["image"] == {"evidence": "watermark", "model": "mmface-dit", "version": "1", "settings": {}}
    assert [one["licence"] for one in known["origin"]["collections"]] == ["CC-BY-4.0", "CC0-1.0"]


def test_datasets_that_were_removed_are_still_named(made: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(made["images"])
    assert main(["lineage", "models:/mmface-dit@champion", "--json"]) == 0
    origin = json.loads(capsys.readouterr().out)["origin"]
    published = {one["name"]: one["published"] for one in origin["datasets"]}
    assert published == {key(made["images"]): False, key(made["conditions"]): True, key(made["train-0-32"]): True}
    assert len(origin["collections"]) == 2


def test_what_is_known_is_printed_when_the_version_is_gone(
    made: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    registry.open_tracking().delete_model_version("mmface-dit", "1")
    assert main(["lineage", write(encode(FACE, MADE))]) == 2
    printed = capsys.readouterr()
    assert "made by version 1 of mmface-dit" in printed.out
    assert "seed 7" in printed.out
    assert "mmface-dit: version 1 is not in this registry (it has: none): it was deleted" in printed.err
    assert "MLFLOW_TRACKING_URI" in printed.err


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (FACE, "neither metadata of MMFace nor its watermark"),
        (embed(FACE, Mark("abcd", 3)), "version 3 of a model whose name has the code abcd; no model of this registry"),
        (embed(FACE, Mark(name_code("mmface-dit"), 0)), "watermark of a preview or of an unregistered model"),
    ],
)
def test_an_image_of_unknown_origin_is_refused(
    pixels: np.ndarray, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sink = BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    assert main(["lineage", write(sink.getvalue())]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.png", "missing.png: cannot be read"),
        ("models:/mmface-dit@nobody", "no alias 'nobody'"),
        ("models:/mmface-dit/9", "no version 9"),
        ("bundle", "mmface datasets show bundle"),
        ("text.png", "text.png: not a jpg, png or webp image"),
    ],
)
def test_a_wrong_source_is_named(source: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.png").write_text("no image")
    assert main(["lineage", source]) == 2
    assert message in capsys.readouterr().err


def test_the_events_of_a_version_and_of_a_bundle_are_exported(
    made: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lineage", "models:/mmface-dit/1", "--openlineage", "events.jsonl"]) == 0
    assert "wrote the events of 4 datasets" in capsys.readouterr().err
    written = Path("events.jsonl").read_text()
    assert main(["lineage", "bundle", "--openlineage", "-"]) == 0
    assert capsys.readouterr().out == written
    events = [json.loads(line) for line in written.splitlines()]
    for event in events:
        check_event(event)
    assert [event["job"]["name"] for event in events if event["eventType"] == "COMPLETE"] == [
        "images",
        "conditions",
        "train-0-32",
        "bundle",
    ]


def test_the_events_of_removed_datasets_are_left_out(made: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(made["images"])
    assert main(["lineage", "models:/mmface-dit/1", "--openlineage", "-"]) == 0
    printed = capsys.readouterr()
    assert f"no events of datasets that were removed: {key(made['images'])}" in printed.err
    assert {json.loads(line)["job"]["name"] for line in printed.out.splitlines()} == {
        "conditions",
        "train-0-32",
        "bundle",
    }
