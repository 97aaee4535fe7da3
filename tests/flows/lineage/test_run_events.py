"""OpenLineage events derived from published datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonschema import ValidationError
from openlineage.client.serde import Serde

from flows.lineage.run_events import Parent, failed_events, published_events
from mmface.datasets.inventory import held_at
from mmface.errors import StageError
from mmface.store import Store
from tests.lineages import identity, publish_chain
from tests.openlineage_schemas import check_event

FLOW = Parent("retrain", "6f1d5f0e-0c5b-4d8e-9f2e-0a4f6f1f2a3b")


@pytest.fixture
def home(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def events(home: Store, uri: str, parent: Parent | None = None) -> list[dict[str, Any]]:
    key = uri.removeprefix(f"{home.uri}/")
    return [Serde.to_dict(event) for event in published_events(home, held_at(home, key), parent)]


def test_the_events_of_every_stage_are_valid(home: Store) -> None:
    for stage, uri in publish_chain(home).items():
        start, complete = events(home, uri, FLOW)
        check_event(start)
        check_event(complete)
        assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
        assert start["run"] == complete["run"]
        assert start["eventTime"] <= complete["eventTime"]
        assert start["job"]["name"] == stage


@pytest.mark.parametrize(
    "spoil",
    [
        lambda event: event["run"].update(runId="7"),
        lambda event: event["job"].pop("name"),
        lambda event: event.update(eventType="DONE"),
        lambda event: event["outputs"][0]["outputFacets"]["outputStatistics"].update(size="3"),
        lambda event: event["outputs"][0]["facets"]["version"].pop("_producer"),
    ],
)
def test_an_invalid_event_is_found(home: Store, spoil: Any) -> None:
    (event, _) = events(home, publish_chain(home)["images"])
    spoil(event)
    with pytest.raises(ValidationError):
        check_event(event)


def test_a_dataset_that_is_reported_again_gives_the_same_events(home: Store) -> None:
    made = publish_chain(home)
    assert events(home, made["images"]) == events(home, made["images"])
    assert events(home, made["images"])[0]["run"]["runId"] != events(home, made["conditions"])[0]["run"]["runId"]


def test_stages_are_connected_by_the_names_of_their_datasets(home: Store) -> None:
    made = publish_chain(home)
    (_, images), (_, conditions) = events(home, made["images"]), events(home, made["conditions"])
    names = ("namespace", "name")
    written, read = images["outputs"][0], conditions["inputs"][0]
    assert (
        [written[name] for name in names] == [read[name] for name in names] == ["file", f"{home.uri}/datasets/images"]
    )
    assert written["facets"]["version"] == read["facets"]["version"]
    assert made["images"].endswith(read["facets"]["version"]["datasetVersion"])


def test_an_evaluation_set_leads_to_the_photographs_that_it_was_chosen_from(home: Store) -> None:
    made = publish_chain(home)
    (_, event) = events(home, made["evalset"])
    (read,) = event["inputs"]
    assert read["name"] == f"{home.uri}/datasets/images"
    assert made["images"].endswith(read["facets"]["version"]["datasetVersion"])


def test_collections_are_inputs_with_their_licences(home: Store) -> None:
    (_, event) = events(home, publish_chain(home)["images"])
    found = [
        (one["namespace"], one["name"], one["facets"]["tags"]["tags"][0]["value"], one.get("inputFacets"))
        for one in event["inputs"]
    ]
    # 5 rows were read, and no single collection has 5 photographs.
    assert found == [("s3://photos", "studio", "CC-BY-4.0", {}), ("file", "/data/street", "CC0-1.0", {})]


def test_rows_schema_and_size_of_a_dataset_are_facets(home: Store) -> None:
    made = publish_chain(home)
    (_, images), (_, conditions) = events(home, made["images"]), events(home, made["conditions"])
    (output,) = images["outputs"]
    rows = {name: output["outputFacets"]["mmface_rows"][name] for name in ("rowsIn", "rowsOut", "quarantined")}
    assert rows == {"rowsIn": 5, "rowsOut": 3, "quarantined": 1}
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == 3
    assert {"name": "width", "type": "int32", "ordinal_position": 6, "fields": []} in output["facets"]["schema"][
        "fields"
    ]
    (read,) = conditions["inputs"]
    assert read["inputFacets"]["inputStatistics"]["rowCount"] == 3
    (assertion,) = read["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert (assertion["success"], assertion["actual"]) == (True, "0")


def test_events_name_the_present_place_of_a_moved_home(home: Store, tmp_path: Path) -> None:
    made = publish_chain(home)
    moved = Store(str(tmp_path.rename(tmp_path.with_name("moved"))))
    uri = made["conditions"].replace(home.uri, moved.uri)
    assert events(moved, uri)[0]["inputs"][0]["name"] == f"{moved.uri}/datasets/images"


def test_the_events_of_a_dataset_whose_inputs_were_removed(home: Store) -> None:
    made = publish_chain(home)
    (Path(made["images"]) / "manifest.json").unlink()
    (_, event) = events(home, made["conditions"])
    check_event(event)
    assert event["inputs"][0]["name"].endswith("/datasets/images")


@pytest.mark.parametrize(
    ("error", "state"), [(StageError("no rows", field="conditions"), "FAIL"), (KeyboardInterrupt(), "ABORT")]
)
def test_a_failed_attempt_is_a_run_of_its_own(home: Store, error: BaseException, state: str) -> None:
    made = publish_chain(home)
    failed = identity("conditions", {"images": made["images"]})
    start, end = (Serde.to_dict(event) for event in failed_events(failed, 100.0, 160.0, error, FLOW))
    check_event(start)
    check_event(end)
    assert (start["eventTime"], end["eventTime"]) == ("1970-01-01T00:01:40.000+00:00", "1970-01-01T00:02:40.000+00:00")
    assert (start["eventType"], end["eventType"]) == ("START", state)
    assert start["run"]["runId"] == end["run"]["runId"] != events(home, made["conditions"])[0]["run"]["runId"]
    assert end["run"]["facets"]["errorMessage"]["message"] in ("conditions: no rows", "KeyboardInterrupt")
    assert end["run"]["facets"]["parent"]["run"]["runId"] == FLOW.run
    assert end["outputs"] == []
