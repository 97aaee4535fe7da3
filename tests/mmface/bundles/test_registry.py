"""Bundles and the registry, with a real MLflow on SQLite and a real MLflow server."""

from __future__ import annotations

import json
import math
import shutil
import socket
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmface.bundles import registry
from mmface.bundles.bundle import build_pipeline, bundle_fingerprint, read_bundle, write_bundle
from mmface.bundles.lineage import registered_lineages
from mmface.bundles.tracking import open_tracking
from mmface.bundles.weights import found_weights, pin, weights_identity
from mmface.config import Recipe
from mmface.errors import RegistryError, ServiceError
from mmface.imaging.labels import mask_to_png

LINEAGE = {"samples": "datasets/samples/abc", "code_version": "0.1.0", "phases": ["datasets/train-0-32/def"]}
METRICS = {"mask/miou": 0.5, "mask/n": 3.0, "mask/hair_colour_accuracy": math.nan}


@pytest.fixture(autouse=True)
def home(migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MMFACE_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    shutil.copy(migrated, tmp_path / "home" / "mlflow.db")
    return tmp_path / "home"


@pytest.fixture(scope="module")
def bundle(tiny_recipe: Recipe, tiny_transformer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pipeline = build_pipeline(tiny_recipe, tiny_transformer)
    return write_bundle(pipeline, tmp_path_factory.mktemp("bundle"), tiny_recipe, LINEAGE, METRICS)


def _bundle_like(folder: Path, text: str) -> Path:
    """A folder that can be registered, which needs files but no loadable model."""
    folder.mkdir()
    (folder / "README.md").write_text(text)
    return folder


@pytest.fixture
def server(migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Starts MLflow's server with proxied artifacts in a thread; returns its address."""
    from mlflow.server import app, handlers
    from werkzeug.serving import make_server

    shutil.copy(migrated, tmp_path / "server.db")
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", f"sqlite:///{tmp_path / 'server.db'}")
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", "mlflow-artifacts:/")
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", (tmp_path / "artifacts").as_uri())
    monkeypatch.setenv("_MLFLOW_SERVER_SERVE_ARTIFACTS", "true")
    for store in ("_tracking_store", "_model_registry_store", "_artifact_repo"):
        monkeypatch.setattr(handlers, store, None)  # MLflow opens each store once per process
    running = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    thread.join()


def test_a_bundle_of_an_older_version_loads(bundle: Path, tiny_recipe: Recipe, tmp_path: Path) -> None:
    """Its recipe has a key that was removed since."""
    older = shutil.copytree(bundle, tmp_path / "older")
    recipe = (older / "recipe.yaml").read_text()
    (older / "recipe.yaml").write_text(recipe.replace("  keep_last: 2\n", "  keep_last: 2\n  keep_best: 1\n"))
    assert read_bundle(older).recipe == tiny_recipe
    assert (older / "recipe.yaml").read_text() != recipe


def test_a_bundle_round_trips_bit_by_bit(bundle: Path, tiny_recipe: Recipe, tiny_transformer: Path) -> None:
    loaded = read_bundle(bundle)
    assert loaded.recipe == tiny_recipe
    assert loaded.lineage == LINEAGE
    assert loaded.metrics["mask/miou"] == 0.5
    assert math.isnan(loaded.metrics["mask/hair_colour_accuracy"])
    built = build_pipeline(tiny_recipe, tiny_transformer)
    request = {"prompt": "red hair", "condition": None, "modality": "sketch", "seeds": [1], "num_inference_steps": 2}
    assert torch.equal(loaded.pipeline(**request, output_type="pt").images, built(**request, output_type="pt").images)


def test_a_bundle_is_safetensors_only_and_contains_no_local_paths(bundle: Path, tiny_recipe: Recipe) -> None:
    files = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert {"model_index.json", "recipe.yaml", "lineage.json", "metrics.json", "README.md"} <= files
    assert {Path(name).suffix for name in files} <= {".json", ".safetensors", ".yaml", ".md", ".txt", ".jinja"}
    for path in bundle.rglob("*.json"):
        assert tiny_recipe.components.vae not in path.read_text()
        json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_writing_a_bundle_twice_gives_the_same_fingerprint(
    bundle: Path, tiny_recipe: Recipe, tiny_transformer: Path, tmp_path: Path
) -> None:
    again = write_bundle(build_pipeline(tiny_recipe, tiny_transformer), tmp_path / "b", tiny_recipe, LINEAGE, METRICS)
    assert bundle_fingerprint(again) == bundle_fingerprint(bundle)
    (again / "lineage.json").write_text("{}")
    assert bundle_fingerprint(again) != bundle_fingerprint(bundle)


def test_a_moved_home_still_finds_its_artifacts(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = registry.start_run("a", key="k")
    version = registry.register_bundle(_bundle_like(tmp_path / "bundle", "one"), run)
    registry.set_alias(registry.MODEL, registry.CHAMPION, version)
    elsewhere = open_tracking().create_experiment("another's", (home / "mlartifacts-of-another").as_uri())

    moved = home.rename(tmp_path / "another home#%20")
    monkeypatch.setenv("MMFACE_HOME", str(moved))
    with registry.fetched_bundle(registry.MODEL, version) as folder:
        assert folder.is_relative_to(moved)
    assert registry.read_file(registry.MODEL, version, "README.md") == "one"
    assert registry.start_run("a", key="k") == run
    assert registry.register_bundle(_bundle_like(tmp_path / "second", "two"), registry.start_run("b")) == "2"
    assert len(list(moved.rglob("README.md"))) == 2
    assert not home.exists()
    kept = open_tracking().get_experiment(elsewhere).artifact_location
    assert kept == (home / "mlartifacts-of-another").as_uri()


def test_artifacts_in_a_folder_that_the_user_chose_stay_there(tmp_path: Path, home: Path) -> None:
    place = tmp_path / "large-disk" / "mlartifacts"
    place.mkdir(parents=True)
    open_tracking().create_experiment("mmface", place.as_uri())
    run = registry.start_run("a")
    registry.log_artifact(run, _bundle_like(tmp_path / "b", "x") / "README.md")
    assert len(list(place.rglob("README.md"))) == 1
    assert not (home / "mlartifacts").exists()


def test_an_incomplete_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"recipe\.yaml"):
        read_bundle(tmp_path)


def test_a_bundle_is_registered_and_loaded_by_alias_and_version(bundle: Path, tiny_recipe: Recipe, home: Path) -> None:
    run = registry.start_run("retrain", {"recipe": "tiny"})
    version = registry.register_bundle(bundle, run)
    assert version == "1"
    assert registry.register_bundle(bundle, registry.start_run("another")) == version  # idempotent
    assert registry.get_alias("mmface-dit", "champion") is None
    registry.set_alias("mmface-dit", "champion", version)
    listed = registry.list_versions()
    assert [(one.version, one.aliases, one.run_id) for one in listed] == [("1", ("champion",), run)]
    for name in ("champion", "1"):
        loaded = registry.load_bundle("mmface-dit", name)
        assert (loaded.version, loaded.recipe, loaded.lineage) == ("1", tiny_recipe, LINEAGE)
    assert (home / "mlflow.db").is_file()
    assert list((home / "mlartifacts").rglob("model_index.json"))


def test_training_starts_from_a_registered_bundle(bundle: Path) -> None:
    version = registry.register_bundle(bundle, registry.start_run("retrain"))
    registry.set_alias("mmface-dit", "champion", version)
    assert pin("models:/mmface-dit@champion") == "models:/mmface-dit/1"
    for name in ("models:/mmface-dit@champion", "models:/mmface-dit/1"):
        with found_weights(name) as found:
            assert json.loads((found.path / "config.json").read_text())["_class_name"] == "MMFaceDiT"
        assert weights_identity(name) == f"bundle:{bundle_fingerprint(bundle)[:16]}"
    with pytest.raises(RegistryError, match="no alias 'other'"), found_weights("models:/mmface-dit@other"):
        pass


def test_a_bundle_is_registered_on_a_server_and_loaded_from_it(
    server: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    run = registry.start_run("retrain", key="abc")
    registry.log_metrics(run, {"loss": 1.0}, 1)
    version = registry.register_bundle(bundle, run)
    assert registry.register_bundle(bundle, run) == version
    registry.set_alias("mmface-dit", "champion", version)
    assert registry.load_bundle("mmface-dit").lineage == LINEAGE
    with pytest.raises(RegistryError, match="no alias 'nobody'"):
        registry.load_bundle("mmface-dit", "nobody")


def test_mlflow_loads_a_registered_bundle(bundle: Path) -> None:
    import mlflow
    import pandas as pd

    registry.register_bundle(bundle, registry.start_run("retrain"))
    client = registry.open_tracking()
    uri = client.get_model_version_download_uri("mmface-dit", "1")
    model = mlflow.pyfunc.load_model(uri)
    mask = b64encode(mask_to_png(np.full((32, 32), 13, np.uint8))).decode()
    row = {"prompt": "red hair", "modality": "mask", "condition": mask, "seed": 5}
    painted = model.predict(pd.DataFrame([row]))
    assert Image.open(BytesIO(b64decode(painted[0]))).size == (32, 32)


def test_a_second_bundle_of_a_run_does_not_change_the_first(
    bundle: Path, tiny_recipe: Recipe, tiny_transformer: Path, tmp_path: Path
) -> None:
    run = registry.start_run("retrain", key="abc")
    lineage = LINEAGE | {"images": "grown"}
    second = write_bundle(build_pipeline(tiny_recipe, tiny_transformer), tmp_path / "b", tiny_recipe, lineage, METRICS)
    assert [registry.register_bundle(folder, run) for folder in (bundle, second)] == ["1", "2"]
    assert registry.load_bundle("mmface-dit", "1").lineage == LINEAGE
    assert registry.load_bundle("mmface-dit", "2").lineage == lineage


def test_the_lineages_of_all_models_are_read_page_by_page(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = registry.start_run("retrain")
    for name in ("one", "two", "three"):
        registry.register_bundle(bundle, run, name)
    client = registry.open_tracking()
    search = client.search_registered_models
    monkeypatch.setattr(type(client), "search_registered_models", lambda self, **given: search(max_results=1, **given))
    assert registered_lineages() == dict.fromkeys(("one 1", "two 1", "three 1"), LINEAGE)


def test_a_bundle_with_changed_files_is_not_loaded(tmp_path: Path, home: Path) -> None:
    registry.register_bundle(_bundle_like(tmp_path / "one", "x"), registry.start_run("r"))
    next(home.rglob("README.md")).write_text("y")
    with pytest.raises(RegistryError, match="changed"):
        registry.load_bundle("mmface-dit", "1")


def test_repeated_rollbacks_go_back_through_the_champions(tmp_path: Path) -> None:
    run = registry.start_run("r")
    versions = [registry.register_bundle(_bundle_like(tmp_path / str(i), str(i)), run) for i in range(3)]
    assert versions == ["1", "2", "3"]
    for version in ("1", "2", "2", "3"):  # the second "2" changes nothing
        registry.set_alias("mmface-dit", "champion", version)
    assert registry.rollback("mmface-dit") == "2"
    assert registry.rollback("mmface-dit") == "1"
    with pytest.raises(RegistryError, match="no earlier version to roll back to"):
        registry.rollback("mmface-dit")
    assert registry.get_alias("mmface-dit", "champion") == "1"


def test_errors_name_the_alias_or_version_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="no alias 'champion'"):
        registry.load_bundle("mmface-dit")
    with pytest.raises(RegistryError, match="no champion to roll back"):
        registry.rollback("mmface-dit")
    assert registry.list_versions("mmface-dit") == []
    registry.register_bundle(_bundle_like(tmp_path / "one", "x"), registry.start_run("r"))
    with pytest.raises(RegistryError, match="no version 7; existing versions: 1"):
        registry.set_alias("mmface-dit", "champion", "7")
    with pytest.raises(RegistryError, match="no version 7"):
        registry.load_bundle("mmface-dit", "7")
    assert registry.get_alias("mmface-dit", "champion") is None


def test_a_run_is_logged_and_reopened_by_its_key(tmp_path: Path) -> None:
    run = registry.start_run("retrain", {"recipe": "tiny"}, key="abc")
    registry.log_metrics(run, {"loss": 1.5}, 10)
    registry.log_metrics(run, {"loss": 1.0}, 20)
    (tmp_path / "note.txt").write_text("hello")
    registry.log_artifact(run, tmp_path / "note.txt")
    registry.finish_run(run, "FAILED")
    assert registry.start_run("retrain", key="abc") == run
    assert registry.start_run("retrain", key="other") != run
    client = registry.open_tracking()
    assert client.get_run(run).info.status == "RUNNING"
    assert [(one.step, one.value) for one in client.get_metric_history(run, "loss")] == [(10, 1.5), (20, 1.0)]
    assert [one.path for one in client.list_artifacts(run)] == ["note.txt"]


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_dead_server_is_reported_within_seconds(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://user:secret@127.0.0.1:{port}")
    started = time.monotonic()
    with pytest.raises(ServiceError, match="start it, or unset") as raised:
        registry.open_tracking()
    assert time.monotonic() - started < 5
    assert raised.value.field == "MLFLOW_TRACKING_URI"
    assert "secret" not in str(raised.value)


def test_a_server_that_never_answers_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(ServiceError, match="timed out"):
            registry.open_tracking()
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("uri", "match"),
    [("./mlruns", "not an address"), ("ftp://x/y", "not an address"), ("sqlite:////proc/no/x.db", "create")],
)
def test_invalid_addresses_of_mlflow_are_refused(uri: str, match: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ServiceError, match=match):
        registry.open_tracking()


def test_a_remote_home_needs_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMFACE_HOME", "s3://bucket/prefix")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with pytest.raises(ServiceError, match="not a local folder"):
        registry.tracking_uri()
