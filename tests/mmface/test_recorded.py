"""A home that an earlier version of the code made is found by this one: moving code changes no fingerprint (DESIGN §2).

``recorded/`` holds the manifests of one small retraining, made before the modules were sorted into rooms.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from mmface import plan
from mmface.config import Recipe
from mmface.config.load import load_recipe
from mmface.datasets.dataset import open_dataset, published
from mmface.datasets.manifest import Identity
from mmface.datasets.stage import VERSIONS
from mmface.store import Store

RECORDED = Path(__file__).parent / "recorded"
STAGES = sorted(file.stem for file in RECORDED.glob("*.json"))
# Stages whose results changed since, with the version that made the recorded ones, and stages that came later. A home
# is painted, measured and bundled again; nothing is prepared or trained again.
RENEWED = {"samples": 1, "bundle": 2}
LATER = {"evalset", "scores"}
SETTINGS = [
    "portraits.n=24",
    "portraits.size=64",
    "data.min_size=64",
    "phases=[{resolution: 64, steps: 2, batch_size: 4}]",
    "model.depth=1",
    "model.hidden_size=32",
    "model.num_heads=2",
    "evaluate.n=4",
    "evaluate.n_sketch=2",
    "gate.min_mask_miou=0",
    "gate.min_hair_colour=0",
    "sampling.num_inference_steps=2",
]


def recorded(stage: str) -> dict[str, Any]:
    """The manifest of a stage, whose addresses begin with ``HOME``."""
    manifest: dict[str, Any] = json.loads((RECORDED / f"{stage}.json").read_text("utf-8"))
    return manifest


@pytest.fixture
def home(tmp_path: Path) -> Store:
    """The recorded home: its datasets without their rows."""
    store = Store(tmp_path)
    for stage in STAGES:
        text = (RECORDED / f"{stage}.json").read_text("utf-8").replace("HOME", store.uri)
        store.write(f"datasets/{stage}/{recorded(stage)['fingerprint']}/manifest.json", text.encode())
    return store


def address(home: Store, stage: str) -> str:
    return f"{home.uri}/datasets/{stage}/{recorded(stage)['fingerprint']}"


def planned(recipe: Recipe, home: Store, stage: str) -> Identity:
    """The identity that the plan gives a stage over the recorded datasets."""
    images, conditions, captions, text, latents = (
        address(home, name) for name in ("images", "conditions", "captions", "text", "latents-64")
    )
    return {
        "portraits": lambda: plan.portraits(recipe),
        "conditions": lambda: plan.conditions(recipe, images),
        "captions": lambda: plan.captions(recipe, images, conditions),
        "text": lambda: plan.text(recipe, captions),
        "features": lambda: plan.features(recipe, images),
        "drift": lambda: plan.drift(recipe, images, images),
        "latents-64": lambda: plan.latents(recipe, 64, images, conditions),
        "train-0-64": lambda: plan.train(recipe, 0, latents, text, None),
    }[stage]()


def test_every_stage_was_recorded() -> None:
    assert {stage.partition("-")[0] for stage in STAGES} | LATER == VERSIONS.keys()


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in {"images", *RENEWED}])
def test_the_plan_finds_the_recorded_dataset(home: Store, stage: str) -> None:
    assert published(home, planned(load_recipe("demo", SETTINGS), home, stage)) == address(home, stage)
    assert open_dataset(address(home, stage)).manifest.counts == recorded(stage)["counts"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_recorded_manifest_still_has_its_fingerprint(stage: str) -> None:
    manifest = recorded(stage)
    fields = {name: manifest[name] for name in ("config", "inputs", "weights")}
    version = RENEWED.get(stage, VERSIONS[stage.partition("-")[0]])
    identity = Identity(stage=stage, version=version, **fields)
    assert identity.fingerprint == manifest["fingerprint"]


def test_mlflow_loads_versions_that_were_registered_before() -> None:
    """Their ``MLmodel`` names this module as ``loader_module``."""
    assert callable(importlib.import_module("mmface.bundle")._load_pyfunc)
