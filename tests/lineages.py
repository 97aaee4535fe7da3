"""A small chain of published datasets: photographs, conditions, an evaluation set, a trained phase and a bundle."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from mmface.datasets.dataset import Publisher
from mmface.datasets.manifest import Identity
from mmface.datasets.records import CONDITIONS, EVALSET, IMAGES
from mmface.store import Store
from mmface.store.tables import to_parquet

PHOTOGRAPHS = [
    {"name": "studio", "licence": "CC-BY-4.0", "pictures": 3, "images": "s3://photos/studio"},
    {"name": "street", "licence": "CC0-1.0", "pictures": 2, "images": "/data/street"},
]
EMPTY = {pa.string(): "", pa.binary(): b"", pa.int32(): 0, pa.int64(): 0, pa.float32(): 0.0, pa.bool_(): False}


def publish_chain(home: Store) -> dict[str, str]:
    """URIs by stage. Of 5 photographs 1 is quarantined and 1 is a duplicate; conditions filter 1 of the other 3."""
    made: dict[str, str] = {}
    lost = {"in": 5, "out": 3, "quarantined": 1, "duplicates": 1, "filtered": 0}
    made["images"] = _publish(home, "images", {}, IMAGES, 3, lost, {"sources": PHOTOGRAPHS})
    filtered = {"in": 3, "out": 2, "quarantined": 0, "duplicates": 0, "filtered": 1}
    inputs = {"images": made["images"]}
    made["conditions"] = _publish(home, "conditions", inputs, CONDITIONS, 2, filtered)
    origin = {"chosen_from": {"images": "/".join(made["images"].split("/")[-2:])}}
    made["evalset"] = _publish(home, "evalset", {}, EVALSET, 1, {"out": 1}, origin)
    inputs = {"latents": made["conditions"]}
    made["train-0-32"] = _publish(home, "train-0-32", inputs, None, 0, {"rows": 2, "steps": 7})
    made["bundle"] = _publish(home, "bundle", {"train": made["train-0-32"]}, None, 0, {})
    return made


def identity(stage: str, inputs: dict[str, str]) -> Identity:
    """The identity of a dataset of the chain."""
    return Identity(stage=stage, version=1, config={}, inputs=inputs)


def _publish(
    home: Store,
    stage: str,
    inputs: dict[str, str],
    schema: pa.Schema | None,
    rows: int,
    counts: dict[str, int],
    extra: dict[str, Any] | None = None,
) -> str:
    publisher = Publisher(home, identity(stage, inputs))
    if schema is None:
        publisher.write("transformer/config.json", b"{}")
    else:
        row = {field.name: EMPTY.get(field.type) for field in schema if field.name != "origin"}
        row |= {"origin": bytes(32)} if "origin" in schema.names else {}
        publisher.write("data/0.parquet", to_parquet([row | {"id": str(i)} for i in range(rows)], schema))
    return publisher.publish(counts, extra=extra)
