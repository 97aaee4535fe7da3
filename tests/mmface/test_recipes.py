"""The recipes that ship hold the paper's figures (DESIGN §4, §5)."""

from __future__ import annotations

import pytest

from mmface.recipes import RECIPES, load_recipe


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_every_recipe_loads_and_is_named_like_its_file(name: str):
    assert load_recipe(name).name == name


@pytest.mark.parametrize("objective", ["flow", "ddpm"])
def test_the_paper_s_recipes(objective: str):
    recipe = load_recipe(f"paper-{objective}")
    assert recipe.objective.name == objective
    assert recipe.objective.timestep_sampling == "uniform"
    model = recipe.model
    assert (model.hidden_size, model.depth, model.num_heads, model.mlp_ratio, model.patch_size) == (1152, 28, 16, 4, 2)
    assert (model.text_rope, model.dual_stream, model.modality_embedder, model.rope) == ("sequential", True, True, True)
    first, second = recipe.phases
    assert (first.resolution, first.epochs, first.batch_size, first.learning_rate) == (256, 300, 32, 1e-4)
    assert (second.resolution, second.epochs, second.batch_size, second.learning_rate) == (512, 50, 16, 5e-6)
    assert second.accumulation > 1
    train = recipe.train
    assert (train.betas, train.weight_decay, train.gradient_clip, train.ema_decay) == ((0.9, 0.999), 0.01, 0.5, 0.9999)
    assert (train.precision, train.optimizer, train.gradient_checkpointing) == ("bf16", "adamw8bit", True)
    assert (train.condition_dropout, train.text_dropout) == (0.05, 0.05)
    assert recipe.data.captions_per_image == 10


def test_the_recipes_of_the_paper_differ_in_the_objective_alone():
    flow, ddpm = load_recipe("paper-flow"), load_recipe("paper-ddpm")
    same = {"name": "", "objective": flow.objective}
    assert flow.model_copy(update=same) == ddpm.model_copy(update=same)
    assert ddpm.objective.min_snr_gamma == 5
