"""Registered bundles as models of MLflow: loaded by ``mlflow.pyfunc`` and behind MLflow's scoring server."""

from __future__ import annotations

import json
import re
import shutil
from base64 import b64decode, b64encode
from collections.abc import Iterator
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel, add_to_model, scoring_server
from packaging.requirements import Requirement
from PIL import Image
from starlette.testclient import TestClient

from mmface.bundles import registry
from mmface.bundles.bundle import MLMODEL, OF_MLFLOW, build_pipeline, bundle_fingerprint, write_bundle
from mmface.bundles.mlmodel import example_row
from mmface.bundles.reference import Preview, write_preview
from mmface.config import Recipe
from mmface.imaging.labels import mask_to_png
from mmface.pipeline import MMFacePipeline

MASK = mask_to_png(np.full((32, 32), 13, np.uint8))


def row(**changed: Any) -> dict[str, Any]:
    return {"prompt": "red hair", "modality": "mask", "condition": b64encode(MASK).decode(), "seed": 5} | changed


def images(painted: list[str]) -> list[np.ndarray]:
    return [np.asarray(Image.open(BytesIO(b64decode(one)))) for one in painted]


@pytest.fixture(scope="module")
def pipeline(tiny_recipe: Recipe, tiny_transformer: Path) -> MMFacePipeline:
    return build_pipeline(tiny_recipe, tiny_transformer)


@pytest.fixture(scope="module")
def bundle(pipeline: MMFacePipeline, tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(pipeline, tmp_path_factory.mktemp("bundle"), tiny_recipe, {}, {})


@pytest.fixture(scope="module")
def registered(bundle: Path, migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the version that is champion, among MLflow's artifacts."""
    home = tmp_path_factory.mktemp("home")
    shutil.copy(migrated, home / "mlflow.db")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MMFACE_HOME", str(home))
        environment.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}")
        made = registry.register_bundle(bundle, registry.start_run("retrain"))
        registry.set_alias(registry.MODEL, registry.CHAMPION, made)
        with registry.fetched_bundle(registry.MODEL, made) as folder:
            yield folder


@pytest.fixture(scope="module")
def model(registered: Path) -> PyFuncModel:
    return mlflow.pyfunc.load_model("models:/mmface-dit@champion")


def test_the_input_example_of_a_registered_model_is_painted(model: PyFuncModel, registered: Path) -> None:
    example = model.metadata.load_input_example(str(registered))
    assert list(example.columns) == ["prompt", "modality", "condition", "seed"]
    painted = images(model.predict(example))
    assert [one.shape for one in painted] == [(32, 32, 3)]


def test_the_reference_image_of_a_bundle_is_its_example(tmp_path: Path) -> None:
    drawing = BytesIO()
    Image.new("L", (64, 64), 255).save(drawing, "PNG")
    write_preview(Preview(drawing.getvalue(), b"", "sketch", "a bald man", 7), tmp_path)
    encoded = b64encode(drawing.getvalue()).decode()
    assert example_row(tmp_path) == {"prompt": "a bald man", "modality": "sketch", "condition": encoded, "seed": 7}


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"num_inference_steps": 3},
        {"guidance_scale": 1.0},
        {"negative_prompt": "beard"},
        {"sampler": "heun", "num_inference_steps": 3},
    ],
)
def test_params_change_the_image_as_in_the_pipeline(
    model: PyFuncModel, tiny_recipe: Recipe, tiny_transformer: Path, params: dict[str, Any]
) -> None:
    direct = build_pipeline(tiny_recipe, tiny_transformer)
    if "sampler" in params:
        direct.set_sampler(params["sampler"])
    settings = {"num_inference_steps": 2, "guidance_scale": tiny_recipe.sampling.guidance_scale} | params
    settings.pop("sampler", None)
    expected = direct("red hair", Image.open(BytesIO(MASK)), "mask", seeds=[5], **settings).images[0]
    (painted,) = images(model.predict(pd.DataFrame([row()]), params=params))
    assert np.array_equal(painted, np.asarray(expected))
    assert params == {} or not np.array_equal(painted, images(model.predict(pd.DataFrame([row()])))[0])


def test_an_image_does_not_depend_on_the_rows_beside_it(model: PyFuncModel) -> None:
    rows = [row(seed=1), row(prompt="a bald man", seed=2), row(seed=3)]  # more than evaluate.batch_size
    together = model.predict(pd.DataFrame(rows))
    assert together == [model.predict(pd.DataFrame([one]))[0] for one in rows]
    assert len(set(together)) == 3


@pytest.mark.parametrize(
    ("changed", "params", "match"),
    [
        ({}, {"num_inference_steps": 0}, "num_inference_steps: 0 is not an integer from 1"),
        ({}, {"num_inference_steps": 2.5}, "num_inference_steps"),
        ({}, {"guidance_scale": -1.0}, "guidance_scale: -1"),
        ({}, {"sampler": "plms"}, "sampler: no sampler 'plms'.*known: dpmpp, euler"),
        ({"condition": "%"}, {}, "condition: row 0 is not base64"),
        ({"condition": b64encode(b"no image").decode()}, {}, "condition: row 0: not a readable image"),
        ({"condition": b64encode(b"no image").decode(), "modality": "sketch"}, {}, "condition: row 0: not a jpg"),
        ({"modality": "photo"}, {}, "modality: row 0 must be one of mask, sketch, got 'photo'"),
        ({"seed": -1}, {}, "seed: -1"),
        ({"prompt": None}, {}, "prompt: row 0 is no text"),
    ],
)
def test_a_wrong_request_names_the_field(
    model: PyFuncModel, changed: dict[str, Any], params: dict[str, Any], match: str
) -> None:
    with pytest.raises(MlflowException, match=match) as raised:
        model.predict(pd.DataFrame([row(**changed)]), params=params)
    assert raised.value.error_code == "INVALID_PARAMETER_VALUE"


def test_mlflows_server_paints_and_refuses_with_400(model: PyFuncModel, registered: Path) -> None:
    client = TestClient(scoring_server.init(model))
    request = json.loads((registered / "serving_input_example.json").read_text())
    answer = client.post("/invocations", json=request | {"params": {"num_inference_steps": 1}})
    assert answer.status_code == 200
    assert images(answer.json()["predictions"])[0].shape == (32, 32, 3)
    refused = client.post("/invocations", json=request | {"params": {"num_inference_steps": 0}})
    assert refused.status_code == 400
    assert "num_inference_steps: 0 is not an integer" in refused.json()["message"]


def test_the_files_for_mlflow_have_no_pickle_no_path_and_no_address(registered: Path) -> None:
    files = {path.name for path in registered.iterdir() if path.is_file()}
    assert files >= OF_MLFLOW
    assert not [path for path in registered.rglob("*") if path.suffix in (".pkl", ".pickle", ".bin", ".pt")]
    for name in OF_MLFLOW:
        text = (registered / name).read_text()
        assert not re.search(r"https?://|file:|--index|--find-links|(^|[\s'\"])/\w", text), name


def test_this_machine_satisfies_the_requirements(registered: Path) -> None:
    lines = [Requirement(line) for line in (registered / "requirements.txt").read_text().splitlines()]
    assert {"mlflow", "mmface", "torch", "diffusers"} <= {one.name for one in lines}
    assert [one.name for one in lines if not one.specifier.contains(version(one.name))] == []


def test_loading_a_version_with_mlflow_does_not_change_its_fingerprint(
    bundle: Path, registered: Path, model: PyFuncModel
) -> None:
    """MLflow and Python write into the folder that they load from."""
    assert (registered / "registered_model_meta").is_file()
    (registered / "__pycache__").mkdir(exist_ok=True)
    (registered / "__pycache__" / "model.cpython-311.pyc").write_bytes(b"compiled")
    assert bundle_fingerprint(registered) == bundle_fingerprint(bundle)


def test_a_version_of_an_earlier_release_is_loaded(bundle: Path, model: PyFuncModel, tmp_path: Path) -> None:
    """Its ``MLmodel`` names a module of ours as its loader and has no signature."""
    older = shutil.copytree(bundle, tmp_path / "older")
    described = mlflow.models.Model()
    add_to_model(described, loader_module="mmface.bundle")
    described.save(str(older / MLMODEL))
    frame = pd.DataFrame([row()])
    assert mlflow.pyfunc.load_model(str(older)).predict(frame) == model.predict(frame)
    with pytest.raises(MlflowException, match="seed: missing"):
        mlflow.pyfunc.load_model(str(older)).predict(frame.drop(columns="seed"))
