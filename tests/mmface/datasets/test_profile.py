"""The profile of a dataset, which ``mmface datasets show`` prints."""

from pathlib import Path

import pytest

from mmface.datasets.dataset import Dataset, Publisher, open_dataset
from mmface.datasets.manifest import Identity
from mmface.datasets.profile import profile
from mmface.datasets.records import CAPTIONS, CONDITIONS, QUARANTINE
from mmface.store import Store
from mmface.store.tables import to_parquet


def dataset(place: Path, schema, *parts) -> Dataset:
    publisher = Publisher(Store(place), Identity(stage="some", version=1, config={}, inputs={}))
    for number, rows in enumerate(parts):
        publisher.write(f"data/part-{number}.parquet", to_parquet(rows, schema))
    return open_dataset(publisher.publish({}))


def test_figures_and_categories_over_all_parts(tmp_path: Path) -> None:
    rows = [{"face_area": area, "edge_density": 0.5, "label_coverage": 0.25} for area in (0.1, 0.2, 0.3)]
    rows = [row | {"mask_origin": "supplied", "outlier": None} for row in rows]
    rows[2] |= {"outlier": "face_area"}
    lines = dict(profile(dataset(tmp_path, CONDITIONS, rows[:1], rows[1:])))
    assert lines["face_area"] == "median 0.2, 90 % within 0.11 to 0.29, all within 0.1 to 0.3"
    assert lines["outlier"] == "none 2, face_area 1"
    assert lines["mask_origin"] == "supplied 3"
    assert "split" not in lines


@pytest.mark.parametrize(
    ("rejections", "line"), [([{}, {}], "none"), ([{"echo": 2}, {"echo": 1, "short": 1}], "echo 3, short 1")]
)
def test_rejections_are_summed_over_rows(tmp_path: Path, rejections, line: str) -> None:
    rows = [{"captioner": "a", "hair_colour": "red", "rejections": list(one.items())} for one in rejections]
    assert dict(profile(dataset(tmp_path, CAPTIONS, rows)))["rejections"] == line


def test_a_long_list_of_categories_is_shortened(tmp_path: Path) -> None:
    rows = [{"captioner": f"c{number}", "rejections": []} for number in range(10)]
    assert dict(profile(dataset(tmp_path, CAPTIONS, rows)))["captioner"].endswith(" and 2 more")


@pytest.mark.parametrize("parts", [(), ([{"id": "x"}],)])
def test_rows_without_figures_have_no_profile(tmp_path: Path, parts) -> None:
    assert list(profile(dataset(tmp_path, QUARANTINE, *parts))) == []
