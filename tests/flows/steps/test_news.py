"""Whether a run that starts from the champion has anything new to learn; with real image files and a real MLflow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.retrain import retrain
from flows.steps.evaluation import paint_and_bundle
from flows.steps.line import Plan, begin, prepare_data, train_phases
from flows.steps.news import already_learnt
from mmface.bundles import registry
from mmface.errors import StageError
from mmface.store import Store

NAME = "mmface-dit"
FOLLOWS = f"train.start=models:/{NAME}@champion"


@pytest.fixture
def home(registry_home: Store) -> Store:
    return registry_home


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        photograph(folder, i)
    return folder


def photograph(folder: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(folder / f"{seed}.png")


def settings(photographs: Path, *more: str) -> tuple[str, ...]:
    return (f"sources=[{{name: photos, images: {photographs}}}]", *more)


def register(folder: Path, overrides: tuple[str, ...], weights: dict[str, str]) -> str:
    """Registers a champion that was trained on the present photographs, starting from ``weights``."""
    named = Plan({"train-0-64": {"weights": weights}})
    planned = replace(begin("demo", overrides), plan=named)
    data = prepare_data(planned)
    paint_and_bundle(planned, data, train_phases(planned, data))
    lineage = {key.split("/")[1]: {"dataset": key, "weights": {}} for key in named.keys[:-1]}
    lineage["train-0-64"]["weights"] = weights
    folder.mkdir()
    for name, tree in (("lineage.json", lineage), ("metrics.json", {"mask/miou": 0.5})):
        (folder / name).write_text(json.dumps(tree))
    version = registry.register_bundle(folder, registry.start_run("r"))
    registry.set_alias(NAME, "champion", version)
    return version


@pytest.mark.parametrize("weights", [{}, {"start": "bundle:0123456789abcdef"}], ids=["from scratch", "from another"])
def test_the_same_photographs_and_recipe_are_nothing_new(
    weights: dict[str, str], home: Store, photographs: Path, tmp_path: Path
) -> None:
    version = register(tmp_path / "bundle", settings(photographs), weights)
    assert already_learnt(begin("demo", settings(photographs, FOLLOWS))) == version
    assert not home.list("datasets")


def test_a_setting_or_photograph_that_changes_training_is_new(home: Store, photographs: Path, tmp_path: Path) -> None:
    register(tmp_path / "bundle", settings(photographs), {})
    for change in ("data.holdout=0.25", "train.weight_decay=0.02", "phases.1.steps=7"):
        assert already_learnt(begin("demo", settings(photographs, FOLLOWS, change))) is None
    for same in ("jobs.attempts=1", "train.checkpoint_every=7", "serve.port=8001", "evaluate.n=5", "evaluate.set=v2"):
        assert already_learnt(begin("demo", settings(photographs, FOLLOWS, same))) is not None
    photograph(photographs, 3)
    assert already_learnt(begin("demo", settings(photographs, FOLLOWS))) is None


def test_a_start_without_an_alias_is_not_checked(home: Store, photographs: Path, tmp_path: Path) -> None:
    version = register(tmp_path / "bundle", settings(photographs), {})
    assert already_learnt(begin("demo", settings(photographs))) is None
    assert already_learnt(begin("demo", settings(photographs, f"train.start=models:/{NAME}/{version}"))) is None


def test_the_first_run_of_a_schedule_starts_from_scratch(home: Store, photographs: Path) -> None:
    run = begin("demo", settings(photographs, FOLLOWS))
    assert run.recipe.train.start == "scratch"
    assert already_learnt(run) is None


@pytest.mark.usefixtures("prefect_server")
def test_the_flow_run_completes_with_the_message_nothing_new(home: Store, photographs: Path, tmp_path: Path) -> None:
    version = register(tmp_path / "bundle", settings(photographs), {})
    runs = len(mlflow_runs())
    state = retrain(overrides=settings(photographs, FOLLOWS), return_state=True)
    assert state.is_completed()
    assert state.name == "Completed"
    message = f"nothing new: version {version} was trained on these photographs with this recipe"
    assert state.message == f"{message}; champion stays version {version}"
    assert retrain(overrides=settings(photographs, FOLLOWS)).version == version
    assert not home.list("datasets")
    assert len(mlflow_runs()) == runs


@pytest.mark.usefixtures("prefect_server", "ray_session")
def test_force_trains_even_if_there_is_nothing_new(home: Store, photographs: Path, tmp_path: Path) -> None:
    register(tmp_path / "bundle", settings(photographs), {})
    with pytest.raises(StageError, match="3 of 3 rows were quarantined"):  # pictures of 8 pixels are too small
        retrain(overrides=settings(photographs, FOLLOWS), force=True)


def mlflow_runs() -> list[object]:
    client = registry.open_tracking()
    return list(client.search_runs([one.experiment_id for one in client.search_experiments()]))
