"""The ``samples`` job with tiny random networks: its parts depend only on the identity of the dataset."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmface import plan
from mmface.config import Recipe
from mmface.config.load import load_recipe
from mmface.data.conditions import grey_png
from mmface.datasets.dataset import Dataset, Publisher, open_dataset
from mmface.datasets.manifest import Identity
from mmface.datasets.part_worker import Runner
from mmface.datasets.parts import DATA
from mmface.datasets.records import CAPTIONS, CONDITIONS, IMAGES
from mmface.imaging.labels import mask_to_png
from mmface.store import Store
from mmface.store.tables import to_parquet
from ray_jobs import samples
from tests import tiny

ROWS = 34  # more than one part of masks
OTHERS = 3


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a recipe file with tiny networks."""
    folder = tmp_path_factory.mktemp("samples")
    made = Recipe.model_validate(
        {
            "components": tiny.components(folder),
            "model": {"hidden_size": 32, "depth": 1, "num_heads": 2},
            "phases": [{"resolution": tiny.SIDE, "steps": 1}],
            "sampling": {"num_inference_steps": 1, "precision": "fp32"},
            "evaluate": {"n": ROWS, "n_sketch": OTHERS},
        }
    )
    (folder / "recipe.yaml").write_text(made.to_yaml())
    return folder / "recipe.yaml"


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, str]:
    """Published datasets below ``tmp_path``: held-out rows, and a random transformer."""
    home = Store(tmp_path)
    tables: dict[str, list[dict[str, Any]]] = {"images": [], "conditions": [], "captions": []}
    for number in range(ROWS):
        row = {"id": f"{number:064x}"}
        picture = np.random.default_rng(number).integers(0, 255, (40, 40, 3), np.uint8)
        sink = io.BytesIO()
        Image.fromarray(picture).save(sink, "PNG")
        tables["images"].append(row | {"split": "test", "image": sink.getvalue()})
        mask = np.where(np.arange(40)[:, None] < 20 + number % 7, 13, 1).repeat(40, axis=1).astype(np.uint8)
        tables["conditions"].append(row | {"mask": mask_to_png(mask), "sketch": grey_png(picture[..., 0])})
        tables["captions"].append(row | {"captions": ["a person with short red hair"]})
    made = {}
    for stage, schema in (("images", IMAGES), ("conditions", CONDITIONS), ("captions", CAPTIONS)):
        publisher = Publisher(home, Identity(stage=stage, version=1, config={}))
        publisher.write("data/part-00000.parquet", to_parquet(tables[stage], schema))
        made[stage] = publisher.publish({})
    publisher = Publisher(home, Identity(stage="train-0-32", version=1, config={}))
    tiny.transformer(depth=1).save_pretrained(tmp_path / "transformer")
    publisher.store.upload(tmp_path / "transformer", "transformer")
    return {"train": publisher.publish({}), **made}


def paint(home: Store, recipe: Recipe, inputs: dict[str, str], share: float) -> None:
    """Does the work of a job that is killed after this fraction of its parts."""
    identity = plan.samples(recipe, **inputs)
    parts = samples._plan(recipe, identity)
    runner = Runner(home.child(identity.key), DATA, lambda: samples.Painter(identity, home, recipe, parts))
    for part in list(parts)[: round(share * len(parts))]:
        runner.run(part)


def publish(home: Store, recipe: Path, inputs: dict[str, str], batch_size: int) -> Dataset:
    arguments = ["--recipe", str(recipe), "--set", f"evaluate.batch_size={batch_size}", "--home", home.uri]
    return open_dataset(samples.main([*arguments, *(f"--inputs={name}={uri}" for name, uri in inputs.items())]))


@pytest.mark.parametrize(("first", "then"), [(16, 5), (3, 16)])
def test_a_killed_run_can_be_resumed_with_another_batch_size(
    recipe: Path, inputs: dict[str, str], tmp_path: Path, first: int, then: int
) -> None:
    home = Store(tmp_path)
    before, after = (load_recipe(str(recipe), [f"evaluate.batch_size={size}"]) for size in (first, then))
    paint(home, before, inputs, 0.5)
    paint(home, after, inputs, 1)
    made = publish(home, recipe, inputs, then)
    rows = made.table(["id", "modality", "generated"]).to_pylist()
    kinds = {"mask": ROWS, "sketch": OTHERS, "unconditional": OTHERS}
    assert [row["id"] for row in rows] == [f"{i:064x}-{kind}" for kind, count in kinds.items() for i in range(count)]
    assert made.manifest.counts["out"] == len(rows)
    # The parts have the same rows as in an uninterrupted run.
    names = ["mask-00000-00031", "mask-00032-00033", "sketch-00000-00002", "unconditional-00000-00002"]
    assert [file.path for file in made.parts()] == [f"data/{name}.parquet" for name in names]
    assert [file.rows for file in made.parts()] == [32, 2, 3, 3]


def test_parts_that_another_version_of_the_code_left_are_not_published(
    recipe: Path, inputs: dict[str, str], tmp_path: Path
) -> None:
    home = Store(tmp_path)
    asked = load_recipe(str(recipe))
    identity = plan.samples(asked, **inputs)
    left = home.child(identity.key)
    paint(home, asked, inputs, 1)
    left.write("data/part-00000.parquet", left.read("data/sketch-00000-00002.parquet"))  # a name of an older version
    made = publish(home, recipe, inputs, 16)
    assert len(set(made.table(["id"])["id"].to_pylist())) == made.table(["id"]).num_rows == ROWS + 2 * OTHERS
