"""Recipes: which are refused, which keys an override reaches, and what a fingerprint depends on."""

from pathlib import Path

import pytest

from mmface import plan
from mmface.config import Phase, Recipe, fingerprint
from mmface.config.load import RECIPES, load_recipe, parse_recipe, read_recipe
from mmface.errors import RecipeError


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_every_shipped_recipe_loads_and_survives_its_own_yaml(name: str, tmp_path):
    recipe = load_recipe(name)
    path = tmp_path / "saved.yaml"
    path.write_text(recipe.to_yaml())
    assert load_recipe(str(path)) == recipe


def test_an_override_reaches_list_items_and_defaults():
    recipe = load_recipe("demo", ["phases.0.steps=50", "train.betas.1=0.95", "gate.min_mask_accuracy=0.5"])
    assert recipe.phases[0].steps == 50
    assert recipe.train.betas == (0.9, 0.95)
    assert recipe.gate.min_mask_accuracy == 0.5


def test_overrides_are_validated_together():
    phase = load_recipe("demo", ["phases.0.steps=null", "phases.0.epochs=3"]).phases[0]
    assert phase.steps is None
    assert phase.total_steps(rows=320) == round(3 * 320 / phase.batch_size)


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("phases.0.stepz=1", "phases.0.stepz"),
        ("phases.9.steps=1", "phases.9.steps"),
        ("seed=-1", "seed"),
        ("train.lr=1", "train.lr"),
        ("phases.0.steps=-5", "phases.0.steps"),
        ("model.hidden_size=250", "model"),
        ("data.holdout=1.5", "data.holdout"),
        ("novalue", "--set"),
        ("seed=[", "seed"),
    ],
)
def test_a_bad_override_names_its_key_in_one_line(override: str, field: str):
    with pytest.raises(RecipeError) as caught:
        load_recipe("demo", [override])
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


def test_an_unknown_key_in_a_file_lists_the_known_ones():
    with pytest.raises(RecipeError, match=r"phases.0.stepz: unknown key; known here: resolution, steps"):
        parse_recipe({"phases": [{"resolution": 64, "steps": 1, "stepz": 2}]})


def test_a_removed_key_is_unknown_except_in_saved_recipes(tmp_path: Path):
    with pytest.raises(RecipeError, match=r"train.keep_best: unknown key 'keep_best'; known here: .*keep_last"):
        load_recipe("demo", ["train.keep_best=2"])
    recipe = load_recipe("demo")
    saved = tmp_path / "recipe.yaml"
    saved.write_text(recipe.to_yaml().replace("  keep_last: 2\n", "  keep_last: 2\n  keep_best: 1\n"))
    with pytest.raises(RecipeError, match=r"train.keep_best: unknown key; known here: .*keep_last"):
        load_recipe(str(saved))
    assert read_recipe(str(saved)) == recipe  # as in a bundle that an older version wrote


def test_the_fingerprint_of_training_has_not_changed():
    recipe = parse_recipe({"phases": [{"resolution": 64, "steps": 1}]})
    made = plan.train(recipe, 0, "latents/0123456789abcdef", "text/0123456789abcdef", None)
    assert made.fingerprint == "e53ba833d830c770"


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(RecipeError, match=r"known: .*demo"):
        load_recipe("no-such")


def test_steps_and_epochs_exclude_each_other():
    with pytest.raises(ValueError, match="exactly one"):
        Phase(resolution=64, steps=1, epochs=1)


def test_a_fingerprint_depends_on_values_and_not_on_key_order():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint(Recipe()) == fingerprint(Recipe())
