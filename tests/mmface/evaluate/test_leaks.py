"""Photographs of the evaluation set among the training photographs are found: the same file and near duplicates."""

from __future__ import annotations

from pathlib import Path

from mmface.datasets.dataset import Dataset, Publisher, open_dataset
from mmface.datasets.manifest import Identity
from mmface.datasets.records import EVALSET, IMAGES
from mmface.evaluate.leaks import Leak, find_leaks, read_leaks, write_leaks
from mmface.store import Store
from mmface.store.tables import to_parquet


def published(home: Store, stage: str, rows: list[dict[str, str]], bits: int = 4) -> Dataset:
    schema = {"evalset": EVALSET, "images": IMAGES}[stage]
    publisher = Publisher(home, Identity(stage=stage, version=1, config={"near_duplicate_bits": bits}))
    publisher.write("data/part-00000.parquet", to_parquet(rows, schema))
    return open_dataset(publisher.publish({}))


def photograph(name: str, bits: int, split: str = "train") -> dict[str, str]:
    return {"id": name, "uri": f"photos/{name}.jpg", "perceptual_hash": f"{bits:016x}", "split": split}


def test_the_same_file_and_near_duplicates_are_leaks_and_held_out_rows_are_not(tmp_path: Path) -> None:
    evalset = published(
        Store(tmp_path),
        "evalset",
        [{"id": name, "perceptual_hash": f"{bits:016x}"} for name, bits in (("a", 0), ("b", 0xFFFF))],
    )
    images = published(
        Store(tmp_path),
        "images",
        [
            photograph("a", 0, "test"),
            photograph("b", 0xFFFF),  # the same file, now in training
            photograph("c", 0b111),  # 3 bits from a
            photograph("d", 0b11111),  # 5 bits from a
        ],
    )
    found = find_leaks(evalset, images)
    assert found == [
        Leak(held_out="b", trained="photos/b.jpg", exact=True),
        Leak(held_out="a", trained="photos/c.jpg", exact=False),
    ]
    assert read_leaks(write_leaks(found)) == found


def test_without_common_photographs_there_is_no_leak(tmp_path: Path) -> None:
    evalset = published(Store(tmp_path), "evalset", [{"id": "a", "perceptual_hash": f"{0:016x}"}])
    assert find_leaks(evalset, published(Store(tmp_path), "images", [photograph("z", 2**63 - 1)])) == []
