"""New photographs are detected by their content: objects on S3 that are rewritten with the same bytes are not new."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.events.schemas.events import ReceivedEvent

from flows.arrivals import EVENT, watch
from mmface import plan
from mmface.config.load import load_recipe
from mmface.data.portraits import write_collection
from mmface.datasets.dataset import Publisher
from mmface.store import Store, home


@pytest.mark.usefixtures("prefect_server")
def test_a_recipe_without_sources_emits_no_event_and_does_not_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MMFACE_HOME", str(tmp_path))
    assert not watch("demo")


@pytest.mark.usefixtures("prefect_server")
def test_an_event_is_emitted_once_for_new_content_and_never_for_prepared_content(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MMFACE_HOME", f"{s3_bucket}/home")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")  # no registry yet: no champion
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    write_collection(tmp_path, 3, 64, 0)
    photos = Store(f"{s3_bucket}/photos")
    one, two, three = sorted((tmp_path / "images").iterdir())
    overrides = (f"sources=[{{name: photos, images: {s3_bucket}/photos}}]",)
    photos.write_file(one.name, one)
    photos.write_file(two.name, two)

    assert watch(overrides=overrides)
    assert not watch(overrides=overrides), "the event was emitted before"
    event = next(iter(received()))
    assert event.payload["overrides"] == list(overrides)
    assert event.payload["collections"] == ["photos"]
    prepare(overrides)
    time.sleep(1.1)  # S3 stores whole seconds
    photos.write_file(one.name, one)
    assert not watch(overrides=overrides), "rewritten with the same bytes"

    photos.write_file(three.name, three)
    assert watch(overrides=overrides)
    prepare(overrides)
    photos.delete(three.name)
    assert not watch(overrides=overrides), "a dataset of this content is published"
    photos.write_file(two.name, three)
    assert watch(overrides=overrides)


def prepare(overrides: tuple[str, ...]) -> None:
    """Publishes an `images` dataset for the present content, without rows."""
    Publisher(home(), plan.images(load_recipe("demo", overrides), home())).publish({})


def received() -> list[ReceivedEvent]:
    """Events that the server has received."""
    until = time.monotonic() + 20
    with get_client(sync_client=True) as client:
        while time.monotonic() < until:
            query = {"filter": EventFilter(event=EventNameFilter(name=[EVENT])).model_dump(mode="json")}
            found = client.request("POST", "/events/filter", json=query).json()["events"]
            if found:
                return [ReceivedEvent.model_validate(one) for one in found]
            time.sleep(0.2)
    raise AssertionError("the event did not arrive")
