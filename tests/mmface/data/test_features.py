"""Embeddings of photographs: those of the judges, of each row alone, reused when a collection grows."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

from mmface import plan
from mmface.config import Recipe
from mmface.data.embeddings import Features, load_dino
from mmface.datasets.dataset import Dataset, Publisher, open_dataset
from mmface.datasets.manifest import Identity
from mmface.datasets.part_worker import PartWorker
from mmface.datasets.parts import receipt_of
from mmface.datasets.records import IMAGES, unpack
from mmface.datasets.reuse import gather
from mmface.errors import InputError
from mmface.evaluate.measuring.judges import Judges
from mmface.imaging.pixels import to_pil, to_tensor
from mmface.store import Store
from mmface.store.tables import to_parquet
from tests import tiny

PART = "part-00000.parquet"


def photograph(number: int, side: int = 40) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (side, side + 9, 3), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def row(number: int) -> dict[str, Any]:
    facts = {"id": f"{number:064x}", "uri": f"{number}.png", "source": "photos", "perceptual_hash": f"{number:016x}"}
    return {**facts, "split": "test" if number % 4 == 0 else "train", "image": photograph(number)}


def publish(home: Store, count: int) -> Dataset:
    publisher = Publisher(home, Identity(stage="images", version=1, config={"count": count}))
    publisher.write(f"data/{PART}", to_parquet([row(number) for number in range(count)], IMAGES))
    return open_dataset(publisher.publish({}))


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(9)
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(folder)
    BitImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


def with_dino(recipe: Recipe, folder: Path | str) -> Recipe:
    return recipe.model_copy(update={"metrics": recipe.metrics.model_copy(update={"dino": str(folder)})})


def test_a_photograph_is_embedded_as_the_judges_embed_it(tiny_recipe: Recipe) -> None:
    """So that the distance of a painted picture to a stored row is a distance of like with like."""
    made = Features(tiny_recipe)([row(1)]).rows[0]
    square = Image.open(io.BytesIO(photograph(1))).crop((4, 0, 44, 40))
    (seen,) = to_pil(to_tensor(square, tiny.SIDE)[None])
    expected = Judges(tiny_recipe).look([seen]).embeddings[0].numpy()
    assert np.frombuffer(made["features"], "<f4") == pytest.approx(expected, abs=1e-6)
    assert {name: made[name] for name in ("id", "split", "source", "perceptual_hash")} == {
        "id": row(1)["id"],
        "split": "train",
        "source": "photos",
        "perceptual_hash": "0000000000000001",
    }


def test_a_row_does_not_depend_on_its_neighbours(tiny_recipe: Recipe) -> None:
    stage = Features(tiny_recipe)
    together = stage([row(number) for number in range(5)]).rows
    assert [stage([row(number)]).rows[0] for number in range(5)] == together


def test_a_photograph_that_cannot_be_decoded_is_quarantined(tiny_recipe: Recipe) -> None:
    made = Features(tiny_recipe)([{**row(1), "image": b"no picture"}, row(2)])
    assert [one["id"] for one in made.rows] == [row(2)["id"]]
    assert [one["stage"] for one in made.quarantined] == ["features"]


def test_dino_embeds_where_the_recipe_names_it(tiny_recipe: Recipe, dino: Path) -> None:
    recipe = with_dino(tiny_recipe, dino)
    made = Features(recipe)([row(1)]).rows[0]
    assert len(made["features"]) == 24 * 4
    one, other = plan.features(tiny_recipe, "datasets/images/x"), plan.features(recipe, "datasets/images/x")
    assert (list(one.weights), list(other.weights)) == (["clip"], ["dino"])
    assert one.fingerprint != other.fingerprint


def test_a_folder_that_is_no_dino_names_its_key(tiny_recipe: Recipe, tmp_path: Path) -> None:
    for folder in (tiny_recipe.components.clip, str(tmp_path / "none")):
        with pytest.raises(InputError) as raised:
            load_dino(folder)
        assert raised.value.field == "metrics.dino"


def test_a_grown_collection_reuses_the_rows_that_it_has(tiny_recipe: Recipe, tmp_path: Path) -> None:
    home = Store(tmp_path)
    first = plan.features(tiny_recipe, publish(home, 6).uri)
    PartWorker(first, home, Features(tiny_recipe)).run(PART)
    known = open_dataset(Publisher(home, first).publish({}))
    grown = plan.features(tiny_recipe, publish(home, 8).uri)
    gather(home, grown)
    PartWorker(grown, home, Features(tiny_recipe)).run(PART)
    assert receipt_of(home.child(grown.key), f"data/{PART}").reused == 6
    made = open_dataset(Publisher(home, grown).publish({}))
    assert made.table().num_rows == 8
    assert made.table().slice(0, 6).equals(known.table())
    assert unpack(made.table()["features"]).shape == (8, tiny.TEXT_WIDTH)
