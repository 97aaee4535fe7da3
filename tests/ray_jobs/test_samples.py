"""The evaluation with tiny random networks: a set that is chosen once, and parts that depend only on identities."""

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
from mmface.datasets.records import CAPTIONS, CONDITIONS, EVALSET, IMAGES
from mmface.errors import DatasetError
from mmface.evaluate.scores import Scores
from mmface.imaging.labels import mask_to_png
from mmface.store import Store
from mmface.store.tables import to_parquet
from ray_jobs import evalset, samples, scores
from tests import tiny

ROWS = 34  # more than one part of masks
SCHEMAS = {"images": IMAGES, "conditions": CONDITIONS, "captions": CAPTIONS}
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
        row = {"id": f"{number:064x}", "perceptual_hash": f"{number << 20:016x}"}
        picture = np.random.default_rng(number).integers(0, 255, (40, 40, 3), np.uint8)
        sink = io.BytesIO()
        Image.fromarray(picture).save(sink, "PNG")
        tables["images"].append(row | {"split": "test", "image": sink.getvalue()})
        mask = np.where(np.arange(40)[:, None] < 20 + number % 7, 13, 1).repeat(40, axis=1).astype(np.uint8)
        row = {"id": row["id"]}
        tables["conditions"].append(row | {"mask": mask_to_png(mask), "sketch": grey_png(picture[..., 0])})
        tables["captions"].append(row | {"captions": ["a person with short red hair"]})
    made = {}
    for stage, schema in SCHEMAS.items():
        publisher = Publisher(home, Identity(stage=stage, version=1, config={}))
        publisher.write("data/part-00000.parquet", to_parquet(tables[stage], schema))
        made[stage] = publisher.publish({})
    publisher = Publisher(home, Identity(stage="train-0-32", version=1, config={}))
    tiny.transformer(depth=1).save_pretrained(tmp_path / "transformer")
    publisher.store.upload(tmp_path / "transformer", "transformer")
    return {"train": publisher.publish({}), **made}


@pytest.fixture
def chosen(recipe: Path, inputs: dict[str, str], tmp_path: Path) -> str:
    """The URI of the evaluation set."""
    return choose(recipe, inputs, tmp_path)


def choose(recipe: Path, inputs: dict[str, str], home: Path, *settings: str) -> str:
    given = [f"--inputs={name}={inputs[name]}" for name in ("images", "conditions", "captions")]
    overrides = [f"--set={one}" for one in settings]
    return evalset.main(["--recipe", str(recipe), "--home", str(home), *given, *overrides])


def paint(home: Store, recipe: Recipe, train: str, chosen: str, share: float) -> None:
    """Does the work of a job that is killed after this fraction of its parts."""
    identity = plan.samples(recipe, train, chosen)
    parts = samples.sample_parts(chosen)
    runner = Runner(home.child(identity.key), DATA, lambda: samples.Painter(identity, home, recipe, {"train": train}))
    for part in parts[: round(share * len(parts))]:
        runner.run(part)


def publish(home: Store, recipe: Path, train: str, chosen: str, batch_size: int = 16) -> Dataset:
    arguments = ["--recipe", str(recipe), "--set", f"evaluate.batch_size={batch_size}", "--home", home.uri]
    return open_dataset(samples.main([*arguments, f"--inputs=train={train}", f"--inputs=evalset={chosen}"]))


def test_a_set_pins_the_first_held_out_rows_with_prompt_seed_and_drawings(
    recipe: Path, inputs: dict[str, str], chosen: str
) -> None:
    rows = open_dataset(chosen).table().to_pylist()
    assert [row["id"] for row in rows] == [f"{i:064x}" for i in range(ROWS)]
    assert [row["modalities"] for row in rows[OTHERS - 1 : OTHERS + 1]] == [
        ["mask", "sketch", "unconditional"],
        ["mask"],
    ]
    assert {row["prompt"] for row in rows} == {"a person with short red hair"}
    assert all(row["image"] and row["mask"] and row["sketch"] and row["seed"] >= 0 for row in rows)
    assert open_dataset(chosen).manifest.extra["chosen_from"]["images"].startswith("images/")


def test_a_set_stays_when_the_collection_grows_until_a_new_version_is_named(
    recipe: Path, inputs: dict[str, str], chosen: str, tmp_path: Path
) -> None:
    grown = {}
    for name in ("images", "conditions", "captions"):
        old = open_dataset(inputs[name])
        rows = old.table().to_pylist()
        new = [{**rows[0], "id": "0" * 62 + f".{i}"} for i in range(2)]  # before most of the chosen rows
        publisher = Publisher(Store(tmp_path), Identity(stage=name, version=1, config={"grown": True}))
        publisher.write("data/part-00000.parquet", to_parquet([*rows, *new], SCHEMAS[name]))
        grown[name] = publisher.publish({})
    assert choose(recipe, grown, tmp_path) == chosen
    second = choose(recipe, grown, tmp_path, "evaluate.set=v2")
    assert second != chosen
    before, after = (set(open_dataset(one).table(["id"])["id"].to_pylist()) for one in (chosen, second))
    assert len(after - before) == 2


def test_a_set_does_not_mix_the_rows_of_a_killed_run_with_its_own(
    recipe: Path, inputs: dict[str, str], tmp_path: Path
) -> None:
    identity = plan.evalset(load_recipe(str(recipe)))
    left = Store(tmp_path).child(identity.key)
    left.write("data/part-00007.parquet", to_parquet([{"id": "stale"}], EVALSET))
    rows = open_dataset(choose(recipe, inputs, tmp_path)).table(["id"])["id"].to_pylist()
    assert rows == [f"{i:064x}" for i in range(ROWS)]


@pytest.mark.parametrize(("first", "then"), [(16, 5), (3, 16)])
def test_a_killed_run_can_be_resumed_with_another_batch_size(
    recipe: Path, inputs: dict[str, str], chosen: str, tmp_path: Path, first: int, then: int
) -> None:
    home = Store(tmp_path)
    before, after = (load_recipe(str(recipe), [f"evaluate.batch_size={size}"]) for size in (first, then))
    paint(home, before, inputs["train"], chosen, 0.5)
    paint(home, after, inputs["train"], chosen, 1)
    made = publish(home, recipe, inputs["train"], chosen, then)
    rows = made.table(["id", "modality", "generated"]).to_pylist()
    kinds = {"mask": ROWS, "sketch": OTHERS, "unconditional": OTHERS}
    wanted = [f"{i:064x}-{kind}" for kind, count in kinds.items() for i in range(count)]
    assert sorted(row["id"] for row in rows) == sorted(wanted)
    assert made.manifest.counts["out"] == len(rows)
    # The parts have the same rows as in an uninterrupted run.
    names = ["part-00000-mask", "part-00000-sketch", "part-00000-unconditional", "part-00001-mask"]
    assert [file.path for file in made.parts()] == [f"data/{name}.parquet" for name in names]
    assert [file.rows for file in made.parts()] == [32, 3, 3, 2]


def test_parts_that_another_version_of_the_code_left_are_not_published(
    recipe: Path, inputs: dict[str, str], chosen: str, tmp_path: Path
) -> None:
    home = Store(tmp_path)
    asked = load_recipe(str(recipe))
    left = home.child(plan.samples(asked, inputs["train"], chosen).key)
    paint(home, asked, inputs["train"], chosen, 1)
    left.write("data/part-00009.parquet", left.read("data/part-00000-sketch.parquet"))  # a name of an older version
    made = publish(home, recipe, inputs["train"], chosen)
    assert len(set(made.table(["id"])["id"].to_pylist())) == made.table(["id"]).num_rows == ROWS + 2 * OTHERS


def test_scores_measure_every_sample_and_say_with_what(
    recipe: Path, inputs: dict[str, str], chosen: str, tmp_path: Path
) -> None:
    painted = publish(Store(tmp_path), recipe, inputs["train"], chosen)
    arguments = ["--recipe", str(recipe), "--home", str(tmp_path)]
    made = open_dataset(scores.main([*arguments, f"--inputs=samples={painted.uri}", f"--inputs=evalset={chosen}"]))
    read = Scores.of(made)
    assert made.manifest.counts["out"] == painted.manifest.counts["out"]
    ids, values = read.values("mask/miou")
    assert ids == [f"{i:064x}" for i in range(ROWS)]
    assert ((values >= 0) & (values <= 1)).all()
    assert read.resolution == tiny.SIDE
    row = read.rows["mask"][0]
    assert sum(row["given"]) == sum(row["found"]) == tiny.SIDE**2
    assert sum(row["hit"]) / tiny.SIDE**2 == pytest.approx(row["metrics"]["accuracy"])
    assert read.measures["miou"].extractor.startswith("parser-")


def test_samples_of_another_set_are_not_scored(
    recipe: Path, inputs: dict[str, str], chosen: str, tmp_path: Path
) -> None:
    identity = plan.samples(load_recipe(str(recipe)), inputs["train"], chosen)
    painted = Publisher(Store(tmp_path), identity).publish({})
    other = choose(recipe, inputs, tmp_path, "evaluate.set=v2")
    with pytest.raises(DatasetError, match="was not painted for"):
        scores.main(
            [f"--recipe={recipe}", f"--home={tmp_path}", f"--inputs=samples={painted}", f"--inputs=evalset={other}"]
        )
