"""New photographs are noticed by their content: an S3 prefix whose objects are written again is no news."""

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
def test_drawn_portraits_are_no_news_and_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MMFACE_HOME", str(tmp_path))
    assert not watch("demo")


@pytest.mark.usefixtures("prefect_server")
def test_new_content_is_told_once_and_old_content_never(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MMFACE_HOME", f"{s3_bucket}/home")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    write_collection(tmp_path, 3, 64, 0)
    photos = Store(f"{s3_bucket}/photos")
    one, two, three = sorted((tmp_path / "images").iterdir())
    overrides = (f"sources=[{{name: photos, images: {s3_bucket}/photos}}]",)
    photos.write_file(one.name, one)
    photos.write_file(two.name, two)

    assert watch(overrides=overrides)
    assert not watch(overrides=overrides), "told already"
    event = next(iter(told()))
    assert event.payload["overrides"] == list(overrides)
    assert event.payload["collections"] == ["photos"]
    prepare(overrides)
    time.sleep(1.1)  # S3 knows whole seconds
    photos.write_file(one.name, one)
    assert not watch(overrides=overrides), "written again, the same bytes"

    photos.write_file(three.name, three)
    assert watch(overrides=overrides)
    prepare(overrides)
    photos.delete(three.name)
    assert not watch(overrides=overrides), "a dataset of this content is there already"
    photos.write_file(two.name, three)
    assert watch(overrides=overrides)


def prepare(overrides: tuple[str, ...]) -> None:
    """An `images` dataset of the content there is now, without its rows."""
    Publisher(home(), plan.images(load_recipe("demo", overrides), home())).publish({})


def told() -> list[ReceivedEvent]:
    """Events that have arrived at the server."""
    until = time.monotonic() + 20
    with get_client(sync_client=True) as client:
        while time.monotonic() < until:
            asked = {"filter": EventFilter(event=EventNameFilter(name=[EVENT])).model_dump(mode="json")}
            found = client.request("POST", "/events/filter", json=asked).json()["events"]
            if found:
                return [ReceivedEvent.model_validate(one) for one in found]
            time.sleep(0.2)
    raise AssertionError("the event did not arrive")
