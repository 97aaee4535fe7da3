"""The origin of every value of a resolved recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmface.config import Recipe
from mmface.config.load import RECIPES, load_recipe
from mmface.config.origin import resolve
from mmface.errors import RecipeError


@pytest.fixture
def grandchild(tmp_path: Path) -> str:
    """A recipe with a base that has a base itself."""
    (tmp_path / "low.yaml").write_text(
        "seed: 3\nmodel: {depth: 2, num_heads: 4}\njobs: {timeout_s: {train: 9}}\n"
        "phases: [{resolution: 64, steps: 1, batch_size: 4}, {resolution: 128, steps: 1}]\ntrain: {balance: {a: 1}}"
    )
    (tmp_path / "middle.yaml").write_text("base: low.yaml\nmodel: {depth: 3}\nphases: [{resolution: 32, steps: 5}]")
    path = tmp_path / "high.yaml"
    path.write_text("base: middle.yaml\nname: high\njobs: {timeout_s: {text: 5}}\ntrain: {balance: {b: 1}}")
    return str(path)


def origins(name: str, *overrides: str) -> dict[str, str]:
    found = resolve(name, overrides).origins
    return {
        ".".join(map(str, path)): origin.replace(str(Path(name).parent) + "/", "") for path, origin in found.items()
    }


def test_the_highest_file_that_sets_a_key_is_its_origin(grandchild: str):
    found = origins(grandchild)
    assert found["name"] == "file high.yaml"
    assert found["seed"] == found["model.num_heads"] == "base low.yaml"
    assert found["model.depth"] == "base middle.yaml"
    assert found["model.patch_size"] == found["serve.port"] == "default"


def test_mappings_are_merged_entry_by_entry(grandchild: str):
    found = origins(grandchild)
    assert found["jobs.timeout_s.train"] == found["train.balance.a"] == "base low.yaml"
    assert found["jobs.timeout_s.text"] == found["train.balance.b"] == "file high.yaml"


def test_a_list_replaces_the_list_of_the_base(grandchild: str):
    found = origins(grandchild)
    assert found["phases.0.resolution"] == "base middle.yaml"
    assert found["phases.0.batch_size"] == "default"  # the list of middle.yaml replaced that of low.yaml
    assert "phases.1.resolution" not in found


def test_overrides_come_last(grandchild: str):
    found = origins(grandchild, "phases.0.batch_size=8", "train.betas.1=0.9", "seed=0", "watch={held_out_rows: 1}")
    assert found["phases.0.batch_size"] == found["seed"] == found["watch.held_out_rows"] == "--set"
    assert found["train.betas"] == "--set"  # a list of plain values is one value
    assert found["phases.0.resolution"] == "base middle.yaml"


def test_an_override_of_a_whole_section_resets_its_other_keys(grandchild: str):
    found = origins(grandchild, "model.depth=5", "model={hidden_size: 64}", "phases=[{resolution: 16, steps: 2}]")
    assert found["model.hidden_size"] == found["phases.0.steps"] == "--set"
    assert found["model.depth"] == found["model.num_heads"] == found["phases.0.batch_size"] == "default"


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_every_value_with_the_origin_default_equals_the_default(name: str):
    recipe, defaults = load_recipe(name).model_dump(), Recipe().model_dump()
    for path, origin in resolve(name).origins.items():
        if origin == "default" and path[0] != "phases":
            value, default = recipe, defaults
            for part in path:
                value, default = value[part], default[part]
            assert value == default, path


def test_a_wrong_override_is_refused():
    with pytest.raises(RecipeError, match=r"train.lr: unknown key 'lr'"):
        resolve("demo", ["train.lr=1"])
