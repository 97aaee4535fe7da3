"""The recipes that ship have the settings of the paper (DESIGN §4, §5)."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmface.config.load import RECIPES, load_recipe
from mmface.errors import RecipeError
from mmface.estimate.shapes import Shapes


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_every_recipe_loads_and_has_the_name_of_its_file(name: str):
    assert load_recipe(name).name == name


@pytest.mark.parametrize("objective", ["flow", "ddpm"])
def test_the_recipes_of_the_paper_have_its_settings(objective: str):
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


def test_the_recipes_of_the_paper_differ_only_in_objective_and_sampler():
    flow, ddpm = load_recipe("paper-flow"), load_recipe("paper-ddpm")
    same = {"name": "", "objective": flow.objective, "sampling": flow.sampling}
    assert flow.model_copy(update=same) == ddpm.model_copy(update=same)
    assert ddpm.objective.min_snr_gamma == 5
    assert (flow.sampling.sampler, ddpm.sampling.sampler) == ("euler", "dpmpp")
    assert ddpm.sampling.guidance_scale == flow.sampling.guidance_scale == 7.5


def test_the_released_state_dict_has_520_tensors():
    assert len(Shapes(load_recipe("paper-flow")).transformer.state_dict()) == 520


@pytest.mark.parametrize("objective", ["flow", "ddpm"])
def test_the_sd_vae_changes_only_the_channels(objective: str):
    recipe, sd = load_recipe(f"paper-{objective}"), load_recipe(f"paper-{objective}-sdvae")
    assert sd.model_copy(update={"name": recipe.name, "components": recipe.components}) == recipe
    assert Shapes(sd).transformer.config["in_channels"] == 8
    assert Shapes(recipe).transformer.config["in_channels"] == 32


def test_each_ablation_changes_one_setting():
    models = [load_recipe(f"ablation-{number}") for number in range(1, 6)]
    switches = [(one.model.modality_embedder, one.model.dual_stream, one.model.rope) for one in models]
    on, off = True, False
    assert switches == [(off, off, off), (on, off, off), (on, on, off), (on, on, on), (on, on, on)]
    full = {name: load_recipe(name) for name in ("paper-ddpm-sdvae", "paper-ddpm")}
    for made, meant in ((models[3], "paper-ddpm-sdvae"), (models[4], "paper-ddpm")):
        assert made.model_copy(update={"name": meant}) == full[meant]


@pytest.mark.parametrize(("objective", "size"), [("flow", 512), ("ddpm", 256)])
def test_the_recipes_of_the_released_weights_have_their_settings(objective: str, size: int):
    recipe = load_recipe(f"released-{objective}")
    assert (recipe.objective.name, recipe.phases[-1].resolution) == (objective, size)
    assert (recipe.model.text_rope, recipe.data.mask_resize, recipe.data.text_padding) == ("zero", "lanczos", "exact")


def test_a_recipe_holds_only_what_differs_from_its_base(tmp_path: Path):
    (tmp_path / "one.yaml").write_text("base: demo\nseed: 3\nmodel: {depth: 2}\nphases: [{resolution: 64, steps: 1}]")
    (tmp_path / "two.yaml").write_text("base: one.yaml\nname: two")
    demo, two = load_recipe("demo"), load_recipe(str(tmp_path / "two.yaml"))
    assert (two.name, two.seed, two.model.depth, len(two.phases)) == ("two", 3, 2, 1)
    assert two.model.hidden_size == demo.model.hidden_size
    assert two.train == demo.train


@pytest.mark.parametrize("base", ["loop.yaml", "no-such", "[demo]"])
def test_a_base_that_is_missing_or_circular_is_refused(tmp_path: Path, base: str):
    (tmp_path / "loop.yaml").write_text(f"base: {base}")
    with pytest.raises(RecipeError):
        load_recipe(str(tmp_path / "loop.yaml"))
