"""Inventory and retention: the datasets of a home, their references, and which may be removed; on a local folder and
on a real S3 server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from mmface.datasets.dataset import Publisher
from mmface.datasets.inventory import Held, damages, find, lineage, scan
from mmface.datasets.manifest import MANIFEST, Identity
from mmface.datasets.records import QUARANTINE
from mmface.datasets.retention import DAY, needs, removable, remove
from mmface.errors import DatasetError
from mmface.store import Store
from mmface.store.tables import to_parquet


@pytest.fixture(params=["folder", "s3"])
def home(request: pytest.FixtureRequest, tmp_path) -> Iterator[Store]:
    if request.param == "folder":
        yield Store(tmp_path / "home")
    else:
        yield Store(request.getfixturevalue("s3_bucket")).child(request.node.name.replace("[", "-").rstrip("]"))


def identity(stage: str, size: int = 0, **inputs: str) -> Identity:
    return Identity(stage=stage, version=1, config={"size": size}, inputs=inputs)


def publish(home: Store, stage: str, size: int = 0, config: dict[str, object] | None = None, **inputs: str) -> str:
    made = identity(stage, size, **inputs).model_copy(update={"config": {"size": size} | (config or {})})
    publisher = Publisher(home, made)
    for part in range(2):
        rows = [{"id": f"{part}-{row}", "uri": "u"} for row in range(2 + part)]
        publisher.write(f"data/part-{part}.parquet", to_parquet(rows, QUARANTINE))
    return publisher.publish({"in": 5, "out": 5})


def begin(home: Store, stage: str, size: int = 0, **inputs: str) -> str:
    made = identity(stage, size, **inputs)
    Publisher(home, made).write("data/part-0.parquet", to_parquet([], QUARANTINE))
    arguments = [f"{name}={uri}" for name, uri in inputs.items()]
    entry = json.dumps({"arguments": ["--inputs", *arguments]}).encode()
    home.write(f"ledger/mmface-{stage}-{made.fingerprint}-0.json", entry)
    return made.key


def key(uri: str) -> str:
    return "/".join(uri.split("/")[-3:])


def stages(held: list[Held]) -> list[str]:
    return [one.stage for one in held]


def test_scan_reports_stage_state_rows_and_size(home: Store) -> None:
    images = publish(home, "images")
    conditions = begin(home, "conditions", images=images)
    published, unfinished = sorted(scan(home), key=lambda one: one.state)
    assert (published.key, published.state, published.rows) == (key(images), "published", 5)
    assert (unfinished.key, unfinished.state, unfinished.rows) == (conditions, "unfinished", None)
    assert published.size == sum(entry.size for entry in home.list(published.key))
    assert abs(time.time() - published.modified) < 60
    assert unfinished.references == (published.key,)  # from the ledger


def test_find_accepts_uris_stages_and_abbreviated_fingerprints(home: Store) -> None:
    small, large, text = publish(home, "images", 1), publish(home, "images", 2), publish(home, "text")
    held = scan(home)
    for name in ("text", "text/", key(text), text, f"text/{text[-16:-10]}", text[-16:-10]):
        assert find(held, name).key == key(text), name
    assert find(held, f"images/{small[-16:]}").key == key(small)
    with pytest.raises(DatasetError, match="matches 2 datasets: images/") as error:
        find(held, "images")
    assert large[-16:] in str(error.value)
    with pytest.raises(DatasetError, match="no dataset 'nothing'"):
        find(held, "nothing")


def test_lineage_leads_back_to_the_sources_and_names_removed_datasets(home: Store) -> None:
    portraits = publish(home, "portraits")
    images = publish(home, "images", config={"sources": [f"{portraits}/images"]})
    conditions = publish(home, "conditions", images=images)
    captions = publish(home, "captions", images=images, conditions=conditions)
    remove(home, find(scan(home), "portraits"))
    found = list(lineage(held := scan(home), find(held, "captions")))
    assert [(depth, place.split("/")[1], one is None) for depth, place, one in found] == [
        (0, "captions", False),
        (1, "images", False),
        (2, "portraits", True),
        (1, "conditions", False),
        (2, "images", False),  # listed again, but its own inputs are not
    ]
    assert found[0][1] == key(captions)


def test_damaged_and_missing_files_are_reported(home: Store) -> None:
    store = Store(publish(home, "images"))
    publish(home, "text")
    assert [list(damages(home, one)) for one in scan(home)] == [[], []]
    data = store.read("data/part-0.parquet")
    store.write("data/part-0.parquet", data[:-1] + b"!")
    store.delete("data/part-1.parquet")
    images = find(scan(home), "images")
    assert [(one.path, one.reason) for one in damages(home, images)] == [
        ("data/part-0.parquet", "its checksum differs"),
        ("data/part-1.parquet", "missing"),
    ]
    store.write("data/part-0.parquet", data[:-1])
    assert next(iter(damages(home, images))).reason == f"{len(data) - 1} bytes instead of {len(data)}"


def test_only_unneeded_datasets_are_removed_each_before_its_inputs(home: Store) -> None:
    old_images = publish(home, "images", 1)
    old_conditions = publish(home, "conditions", 1, images=old_images)
    old_text = publish(home, "text", 1, conditions=old_conditions)
    served = publish(home, "images", 2)
    time.sleep(1.1)  # times on S3 are whole seconds
    images = publish(home, "images", 3)
    conditions = publish(home, "conditions", 3, images=images)
    publish(home, "text", 3, conditions=conditions)
    begun = begin(home, "latents-64", images=served)

    held = scan(home)
    models = {"mmface-dit 1": {"images": {"dataset": key(served)}}}
    reasons = needs(held, models)
    assert reasons[key(served)] == "model mmface-dit 1"
    assert reasons[key(images)] in ("newest images", "newest conditions", "newest text")
    going = removable(held, reasons)
    # Each dataset is removed before its inputs, so a crash leaves no dataset without its inputs.
    wanted = [key(old_text), key(old_conditions), key(old_images)]
    assert [one.key for one in going if one.key != begun] == wanted
    assert begun in [one.key for one in going]

    for one in going:
        remove(home, one)
    assert {one.key for one in scan(home)} == set(reasons)
    assert not home.list("ledger")
    held = scan(home)
    assert removable(held, needs(held, models)) == []
    assert [list(damages(home, one)) for one in held] == [[]] * len(held)


def test_datasets_of_a_running_job_and_their_inputs_are_kept(home: Store) -> None:
    images = publish(home, "images", 1)
    begun = begin(home, "conditions", 1, images=images)
    time.sleep(1.1)
    publish(home, "images", 2)
    held = scan(home)
    assert not removable(held, needs(held, {}, keep_days=1))
    later = time.time() + 2 * DAY
    assert {one.key for one in removable(held, needs(held, {}, keep_days=1, now=later))} == {begun, key(images)}
    assert stages(removable(held, needs(held, {}, keep_days=3, now=later))) == []


def test_nothing_is_removed_while_a_manifest_is_unreadable(home: Store) -> None:
    publish(home, "images", 1)
    damaged = Store(publish(home, "text"))
    damaged.write(MANIFEST, b"{")
    held = scan(home)
    assert [one.path for one in damages(home, find(held, "text"))] == [MANIFEST]
    with pytest.raises(DatasetError, match=r"text/.* cannot be read"):
        removable(held, needs(held, {}))
