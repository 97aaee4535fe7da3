"""``watch`` measures drift against the champion's training set: what it shows, stores and announces, and how often.

The parts of the jobs are made in this process, so that the jobs find them finished and publish without a cluster.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.events.schemas.events import ReceivedEvent

from flows.arrivals import watch
from flows.drift import DETECTED
from mmface import plan
from mmface.bundles import registry
from mmface.config import Recipe
from mmface.config.load import load_recipe
from mmface.data.portraits import write_collection
from mmface.data.prompt_counts import GROUP, PromptCounter, write_counts
from mmface.data.sampled import draw
from mmface.data.sources.layouts import list_collections
from mmface.datasets.dataset import Publisher, open_dataset
from mmface.datasets.manifest import Identity
from mmface.datasets.part_worker import Runner
from mmface.datasets.parts import DATA, READ
from mmface.datasets.records import CAPTIONS
from mmface.evaluate.drift import read_measured
from mmface.store import Store
from mmface.store.tables import to_parquet
from ray_jobs.drift import Sampler
from ray_jobs.images import Reader
from tests.flows.releases import NAME

PART = "part-00000.parquet"
OLD, NEW, FEW = 90, 40, 8
SIDE = 64


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    write_collection(folder, OLD + NEW, SIDE, 0)
    return folder


class Lab:
    """A home whose champion was trained on the first photographs of a collection."""

    def __init__(self, home: Store, folder: Path, drawn: Path) -> None:
        self.home, self.folder, self.drawn = home, folder, drawn
        self.files = sorted((drawn / "images").iterdir())
        (folder / "photos").mkdir()
        source = json.dumps([{"name": "photos", "images": str(folder / "photos")}])
        phases = f"phases=[{{resolution: {SIDE}, steps: 1}}]"
        self.overrides = (f"sources={source}", phases, "data.min_size=32", "data.shard_rows=500")
        self.recipe: Recipe = load_recipe("demo", list(self.overrides))

    def add(self, first: int, last: int, dark: bool = False) -> None:
        """New photographs arrive."""
        for file in self.files[first:last]:
            picture = Image.open(file).convert("RGB")
            picture = ImageOps.invert(picture) if dark else picture
            picture.save(self.folder / "photos" / file.name)

    def read(self) -> Identity:
        """Makes the only part of ``images``."""
        listings = list_collections(self.recipe.sources, self.recipe.data.min_matched)
        identity = plan.images(self.recipe, self.home, listings)
        files = {PART: [file for listing in listings for file in listing.files]}
        reader = lambda: Reader(identity, self.home, self.recipe, files)  # noqa: E731
        Runner(self.home.child(identity.key), READ, reader).run(PART)
        return identity

    def embed(self, images: str, training: str) -> None:
        """Makes the parts of ``drift``."""
        identity = plan.drift(self.recipe, images, training)
        new, old = draw(self.recipe, open_dataset(images), open_dataset(training))
        parts = {f"{side}-{PART}": some[PART] for side, some in (("new", new), ("training", old)) if some}
        runner = Runner(self.home.child(identity.key), DATA, lambda: Sampler(identity, self.home, self.recipe, parts))
        for part in parts:
            runner.run(part)

    def promote(self, images: str) -> None:
        """Registers a version that was trained on ``images``, as champion."""
        ids = [row["id"] for row in open_dataset(images).table(["id"]).to_pylist()]
        texts = [json.loads(line) for line in (self.drawn / "captions.jsonl").read_text().splitlines()]
        rows = [{"id": key, "captions": text["captions"]} for key, text in zip(ids, texts, strict=False)]
        publisher = Publisher(self.home, Identity(stage="captions", version=1, config={}, inputs={"images": images}))
        publisher.write(f"{DATA}/{PART}", to_parquet(rows, CAPTIONS))
        captions = publisher.publish({})
        bundle = self.folder / "bundle"
        bundle.mkdir()
        lineage = {
            name: {"dataset": uri.removeprefix(f"{self.home.uri}/")}
            for name, uri in (("images", images), ("captions", captions))
        }
        (bundle / "lineage.json").write_text(json.dumps(lineage))
        version = registry.register_bundle(bundle, registry.start_run("r"))
        registry.set_alias(NAME, "champion", version)

    def published(self) -> str:
        """URI of ``images`` of the present content, published by its job."""
        from ray_jobs import images

        self.read()
        arguments = [part for one in self.overrides for part in ("--set", one)]
        return images.main(["--recipe", "demo", "--home", self.home.uri, *arguments])


@pytest.fixture
def lab(registry_home: Store, tmp_path: Path, portraits: Path) -> Lab:
    made = Lab(registry_home, tmp_path, portraits)
    made.add(0, OLD)
    return made


@pytest.mark.usefixtures("prefect_server")
def test_photographs_that_have_drifted_are_announced_once(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    assert watch(overrides=lab.overrides), "new content"
    assert read_measured(lab.home, NAME) == {}, "there is no champion"
    training = lab.published()
    lab.promote(training)
    assert not watch(overrides=lab.overrides)
    assert read_measured(lab.home, NAME) == {}, "the champion has learnt these photographs"

    lab.add(OLD, OLD + NEW, dark=True)
    images = lab.published()
    lab.embed(images, training)
    watch(overrides=lab.overrides)
    found = read_measured(lab.home, NAME)["photographs"]
    assert found.drift.verdict == "drifted", found
    assert found.drift.p_value is not None
    assert found.drift.p_value <= 0.001
    assert (found.drift.m, found.version, found.announced) == (count(training), "1", True)
    assert found.drift.n == count(images) - count(training)
    watch(overrides=lab.overrides)
    assert read_measured(lab.home, NAME)["photographs"] == found, "measured once"

    (event,) = received(images)
    assert event.resource.id == f"mmface.drift.{NAME}"
    assert event.resource["mmface.of"] == "photographs"
    assert event.payload["overrides"] == list(lab.overrides)
    names = {file.name for file in lab.files[OLD:]}
    assert event.payload["unlike"]
    assert {Path(uri).name for uri in event.payload["unlike"]} <= names
    assert "photographs have drifted" in artifact("drift-photographs")


@pytest.mark.usefixtures("prefect_server")
def test_photographs_like_the_learnt_ones_are_not_announced_and_few_cannot_tell(lab: Lab) -> None:
    training = lab.published()
    lab.promote(training)
    lab.add(OLD, OLD + FEW)
    images = lab.published()
    lab.embed(images, training)
    watch(overrides=lab.overrides)
    few = read_measured(lab.home, NAME)["photographs"]
    assert few.drift.verdict == "cannot tell"
    assert few.drift.needed is not None
    assert f"would be found with {few.drift.needed} new photographs" in artifact("drift-photographs")

    lab.add(OLD + FEW, OLD + NEW)
    images = lab.published()
    lab.embed(images, training)
    watch(overrides=lab.overrides)
    all_new = read_measured(lab.home, NAME)["photographs"]
    assert all_new.drift.verdict != "drifted"
    assert not all_new.announced
    assert all_new.content == images.rpartition("/")[2]


@pytest.mark.usefixtures("prefect_server")
def test_prompts_are_compared_with_the_captions_whenever_there_are_new_counts(lab: Lab) -> None:
    lab.promote(lab.published())
    asked = PromptCounter()
    for number in range(40 * GROUP):
        asked.add(f"a green dragon above castle {'i' * number}")
    write_counts(lab.home, NAME, asked.take())
    watch(overrides=lab.overrides)
    found = read_measured(lab.home, NAME)["prompts"]
    assert found.drift.n >= 30
    assert found.drift.m == count_train(lab) // GROUP
    assert found.drift.verdict == "drifted", found
    assert found.announced
    watch(overrides=lab.overrides)
    assert read_measured(lab.home, NAME)["prompts"] == found, "no new counts"
    assert "prompts have drifted" in artifact("drift-prompts")


def count(images: str) -> int:
    return sum(row["split"] == "train" for row in open_dataset(images).table(["split"]).to_pylist())


def count_train(lab: Lab) -> int:
    return count(lab.home.child(plan.images(lab.recipe, lab.home).key).uri)


def artifact(key: str) -> str:
    """The newest artifact of that key."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    return str(max(found, key=lambda one: one.created).data)


def received(images: str) -> list[ReceivedEvent]:
    """Events about the content ``images`` that the server has received."""
    until = time.monotonic() + 20
    found: list[ReceivedEvent] = []
    with get_client(sync_client=True) as client:
        while not found and time.monotonic() < until:
            query: dict[str, Any] = {
                "filter": EventFilter(event=EventNameFilter(name=[DETECTED])).model_dump(mode="json")
            }
            events = client.request("POST", "/events/filter", json=query).json()["events"]
            all_found = [ReceivedEvent.model_validate(one) for one in events]
            found = [one for one in all_found if one.payload["images"] == images.rpartition("/")[2]]
            time.sleep(0.2)
    return found
