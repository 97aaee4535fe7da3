"""The preparing stages on a real Ray, with drawn portraits and unusable files: reruns, resuming, error budgets."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmface import plan
from mmface.config import Recipe
from mmface.config.load import load_recipe
from mmface.datasets.dataset import Publisher, open_dataset
from mmface.datasets.manifest import Identity
from mmface.datasets.parts import commit
from mmface.datasets.records import IMAGES
from mmface.errors import DatasetError, InputError, StageError
from mmface.store import Store
from ray_jobs import captions, conditions, images, latents, portraits, text

SETTINGS = [
    "portraits.n=24",
    "portraits.size=64",
    "data.shard_rows=8",
    "data.min_size=32",
    "data.holdout=0.25",
    "phases.0.resolution=32",
    "phases.1.resolution=64",
]

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def collection(home: Store, ray_session: None) -> Path:
    return Path(portraits.main(["--recipe", "demo", "--home", home.uri, *overrides()]))


def overrides(*more: str) -> list[str]:
    return [part for setting in [*SETTINGS, *more] for part in ("--set", setting)]


def arguments(home: Store, folder: Path, *more: str, **inputs: str) -> list[str]:
    given = [part for name, uri in inputs.items() for part in ("--inputs", f"{name}={uri}")]
    return ["--recipe", "demo", "--home", home.uri, *overrides(photos(folder), *more), *given]


def photos(folder: Path) -> str:
    return "sources=" + json.dumps([{"name": "photos", "images": f"{folder}/images", "masks": f"{folder}/masks"}])


def content(uri: str) -> dict[str, str]:
    return {file.path: file.sha256 for file in open_dataset(uri).manifest.files}


def test_the_drawn_collection_has_images_masks_and_tables(collection: Path):
    assert len(list((collection / "images").iterdir())) == len(list((collection / "masks").iterdir())) == 24
    assert len((collection / "captions.jsonl").read_text().splitlines()) == 24
    assert len((collection / "attributes.csv").read_text().splitlines()) == 25


def test_unusable_files_are_quarantined_and_the_others_pass(home: Store, collection: Path, tmp_path: Path):
    folder = tmp_path / "photos"
    shutil.copytree(collection, folder)
    good = sorted((folder / "images").glob("*.png"))
    (folder / "images/cut.jpg").write_bytes(jpeg(good[0])[:500])
    (folder / "images/words.jpg").write_text("not a picture")
    (folder / "images/empty.png").write_bytes(b"")
    Image.new("RGB", (10, 10)).save(folder / "images/tiny.png")
    shutil.copy(good[0], folder / "images/zz-copy.png")

    # The bad files have no masks: 24 of 29 pictures match.
    with pytest.raises(InputError, match=r"24 of 29 photographs have an entry .*words.*data\.min_matched"):
        images.main(arguments(home, folder, "data.max_quarantined=0.2"))
    uri = images.main(arguments(home, folder, "data.max_quarantined=0.2", "data.min_matched=0.8"))
    dataset = open_dataset(uri)
    assert dataset.manifest.counts == {"in": 29, "out": 24, "quarantined": 4, "duplicates": 1, "filtered": 0}
    names = {Path(row["uri"]).name: row["message"] for row in dataset.quarantine().to_pylist()}
    assert set(names) == {"cut.jpg", "words.jpg", "empty.png", "tiny.png"}
    splits = Counter(dataset.table(["split"])["split"].to_pylist())
    assert set(splits) == {"train", "test"}
    assert dataset.manifest.extra["splits"] == splits
    assert dataset.manifest.extra["noted"] == 0
    assert sorted(path.name for path in (folder / "images").iterdir()) == sorted(
        [path.name for path in good] + ["cut.jpg", "words.jpg", "empty.png", "tiny.png", "zz-copy.png"]
    )

    with pytest.raises(StageError, match=r"4 of 29 rows .* data.max_quarantined 0.01"):
        images.main(arguments(home, folder, "data.max_quarantined=0.01", "data.shard_rows=9", "data.min_matched=0.8"))


def test_a_file_that_arrives_during_a_run_belongs_to_the_next_dataset(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "photos"
    shutil.copytree(collection, folder)
    name_dataset = plan.images

    def name_then_receive(*given: Any) -> Identity:
        identity = name_dataset(*given)
        Image.new("RGB", (64, 64), "red").save(folder / "images/late.png")
        return identity

    monkeypatch.setattr(plan, "images", name_then_receive)
    made = open_dataset(images.main(arguments(Store(tmp_path / "home"), folder)))
    assert made.manifest.counts["in"] == 24
    assert "late.png" not in {Path(uri).name for uri in made.table(["uri"])["uri"].to_pylist()}


def test_the_counts_of_all_stages_add_up_and_a_rerun_computes_nothing(home: Store, collection: Path):
    made = prepare(home, collection)
    ids = set(open_dataset(made["images"]).table(["id"])["id"].to_pylist())
    for stage, uri in made.items():
        dataset = open_dataset(uri)
        assert dataset.manifest.counts["in"] == len(ids), stage
        assert set(dataset.table(["id"])["id"].to_pylist()) == ids, stage
    small = open_dataset(made["latents-32"])
    channels, height, width = small.manifest.extra["latent_shape"]
    assert (height, width) == (4, 4)
    assert len(small.table(["image_mean"])["image_mean"][0].as_py()) == 4 * channels * height * width
    captions_, _, width = open_dataset(made["text"]).manifest.extra["text_shape"]
    said = open_dataset(made["text"]).table().to_pylist()[0]
    assert len(said["places"]) == captions_
    assert len(said["sequence"]) == 4 * sum(said["lengths"]) * width
    before = {key: content(uri) for key, uri in made.items()}
    assert {key: content(uri) for key, uri in prepare(home, collection).items()} == before


def test_a_killed_stage_resumes_and_publishes_the_same_content(home: Store, collection: Path, tmp_path: Path):
    whole = images.main(arguments(home, collection))
    elsewhere = Store(tmp_path / "elsewhere")
    identity = plan.images(recipe(collection), elsewhere)
    half = Publisher(elsewhere, identity)
    # As after a kill: some finished parts and no manifest.
    rows = open_dataset(whole).part("data/part-00000.parquet").to_pylist()
    commit(half.store, "work/read/part-00000.parquet", rows, IMAGES)
    resumed = images.main(arguments(elsewhere, collection))
    assert content(resumed) == content(whole)
    assert not elsewhere.list(f"{identity.key}/work")


def test_lists_that_disagree_stop_the_run_and_lineage_names_the_licences(home: Store, collection: Path, tmp_path: Path):
    good = sorted((collection / "images").glob("*.png"))[:6]
    for name, split, files in (("left", "train", good[:4]), ("right", "test", good[3:])):
        (tmp_path / name / "images").mkdir(parents=True)
        for file in files:
            shutil.copy(file, tmp_path / name / "images")
        (tmp_path / name / f"{split}.txt").write_text("\n".join(file.name for file in files))
    tree = [
        {"name": name, "licence": licence, "images": f"{tmp_path}/{name}/images", "split": f"{tmp_path}/{name}"}
        for name, licence in (("left", "CC0-1.0"), ("right", "CC-BY-4.0"))
    ]
    given = ["--recipe", "demo", "--home", home.uri, *overrides(f"sources={json.dumps(tree)}")]
    with pytest.raises(DatasetError, match=rf"share 1 photographs: .*left.*{good[3].name} \(train\) = .*right"):
        images.main(given)

    (tmp_path / "left/train.txt").write_text("\n".join(file.name for file in good[:3]))
    uri = images.main(given)
    assert open_dataset(uri).manifest.counts == {"in": 7, "out": 6, "quarantined": 0, "duplicates": 1, "filtered": 0}
    rows = open_dataset(uri).table(["uri", "source", "split"]).to_pylist()
    assert {(row["source"], row["split"]) for row in rows} == {("left", "train"), ("right", "test")}
    sources = plan.lineage(uri)["images"]["sources"]
    assert [(one["name"], one["licence"], one["pictures"]) for one in sources] == [
        ("left", "CC0-1.0", 4),
        ("right", "CC-BY-4.0", 3),
    ]
    os.utime(tmp_path / "left/images" / good[0].name, ns=(1, 1))
    assert images.main(given) == uri

    wanted = conditions.main([*given, "--set", "data.min_face_area=0.15", "--inputs", f"images={uri}"])
    areas = open_dataset(conditions.main([*given, "--inputs", f"images={uri}"])).table(["face_area"])["face_area"]
    small = sum(area < 0.15 for area in areas.to_pylist())
    counts = open_dataset(wanted).manifest.counts
    assert counts == {"in": 6, "out": 6 - small, "quarantined": 0, "duplicates": 0, "filtered": small}


def test_a_grown_collection_computes_only_new_rows_and_equals_a_fresh_run(
    home: Store, collection: Path, tmp_path: Path
):
    folder = tmp_path / "photos"
    shutil.copytree(collection, folder)
    late = sorted((folder / "images").iterdir())[3]  # every later part of the sorted listing is shifted
    late.rename(tmp_path / late.name)
    prepare(Store(tmp_path / "grown"), folder)
    (tmp_path / late.name).rename(late)
    grown = prepare(Store(tmp_path / "grown"), folder)
    for stage, uri in grown.items():
        extra = open_dataset(uri).manifest.extra
        assert (extra["reused"], extra["computed"]) == (23, 1), stage
    for stage, uri in prepare(home, collection).items():
        if stage != "images":  # rows of images contain their uri
            assert content(uri) == content(grown[stage]), stage


def prepare(home: Store, folder: Path) -> dict[str, str]:
    made = {"images": images.main(arguments(home, folder))}
    made["conditions"] = conditions.main(arguments(home, folder, **made))
    made["captions"] = captions.main(arguments(home, folder, **made))
    made["text"] = text.main(arguments(home, folder, **made))
    small, large = latents.main(arguments(home, folder, **made))
    return made | {"latents-32": small, "latents-64": large}


def recipe(folder: Path) -> Recipe:
    return load_recipe("demo", [*SETTINGS, photos(folder)])


def jpeg(path: Path) -> bytes:
    sink = BytesIO()
    Image.open(path).save(sink, "JPEG")
    return sink.getvalue()


def test_row_id_is_the_hash_of_the_file(home: Store, collection: Path):
    rows = open_dataset(images.main(arguments(home, collection))).table(["id", "uri"]).to_pylist()
    for row in rows[:3]:
        assert row["id"] == hashlib.sha256(Path(row["uri"]).read_bytes()).hexdigest()
