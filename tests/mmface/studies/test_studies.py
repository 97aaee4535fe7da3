"""Studies: the trials of an ablation and of a grid, the datasets that they share, and the tables."""

from __future__ import annotations

import math

import pytest

from mmface import plan
from mmface.config import Recipe
from mmface.config.load import load_recipe
from mmface.errors import RecipeError
from mmface.studies.table import columns, ranked, spread, tables
from mmface.studies.trials import Outcome, Trial, ablation, sweep

HOME = "/home/datasets"


def recipe_of(base: str, trial: Trial) -> Recipe:
    return load_recipe(base, trial.overrides)


def data_of(recipe: Recipe) -> list[str]:
    """Keys of all datasets that training and evaluation read."""
    images = f"{HOME}/images/0"
    conditions = plan.conditions(recipe, images)
    captions = plan.captions(recipe, images, f"{HOME}/{conditions.key}")
    text = plan.text(recipe, f"{HOME}/{captions.key}")
    latents = [plan.latents(recipe, size, images, f"{HOME}/{conditions.key}") for size in recipe.resolutions]
    return [identity.key for identity in (plan.portraits(recipe), conditions, captions, text, *latents)]


def trained(recipe: Recipe) -> str:
    return plan.train(recipe, 0, f"{HOME}/latents", f"{HOME}/text", None).key


@pytest.mark.parametrize("number", range(1, 6))
def test_the_ablation_of_the_paper_is_that_of_the_recipes_that_ship(number: int) -> None:
    base, sd = load_recipe("paper-ddpm"), load_recipe("paper-ddpm-sdvae").components.vae
    trial = ablation(base, vae=sd)[number - 1]
    made, shipped = recipe_of("paper-ddpm", trial), load_recipe(f"ablation-{number}")
    assert trial.variant == f"Model-{number}"
    assert made.name == f"paper-ddpm-model-{number}"
    assert made.model_copy(update={"name": shipped.name, "train": shipped.train}) == shipped
    assert trained(made) == trained(shipped)


def test_all_trials_of_an_ablation_read_the_same_data_and_train_different_models() -> None:
    trials = ablation(load_recipe("demo"), seeds=3)
    recipes = [recipe_of("demo", trial) for trial in trials]
    assert [trial.seed for trial in trials] == [0, 1, 2] * 5
    assert len({tuple(data_of(recipe)) for recipe in recipes}) == 1
    assert data_of(recipes[0]) == data_of(load_recipe("demo"))
    # Without a VAE of its own Model-5 is Model-4, and its first seed is the recipe itself.
    assert len({trained(recipe) for recipe in recipes}) == 12
    assert trained(recipes[9]) == trained(recipes[12]) == trained(load_recipe("demo"))


def test_a_seed_of_training_changes_neither_the_data_nor_the_painted_noise() -> None:
    one, other = load_recipe("demo"), load_recipe("demo", ["train.seed=5"])
    assert trained(one) != trained(other)
    assert trained(load_recipe("demo", ["train.seed=0"])) == trained(one)
    assert data_of(one) == data_of(other)
    assert data_of(load_recipe("demo", ["seed=5"])) != data_of(one)  # which draws other portraits


def test_an_ablation_needs_the_whole_model() -> None:
    with pytest.raises(RecipeError, match=r"model\.rope: false already"):
        ablation(load_recipe("ablation-3"))


def test_a_grid_has_a_trial_for_every_combination_and_seed() -> None:
    base = load_recipe("demo", ["seed=4"])
    trials = sweep(base, ["train.ema_decay=[0.9, 0.99]", "phases.0.learning_rate=[1e-4, 5.0e-4, 0.001]"], seeds=2)
    recipes = [load_recipe("demo", ["seed=4", *trial.overrides]) for trial in trials]
    found = [(one.train.ema_decay, one.phases[0].learning_rate, one.training_seed) for one in recipes]
    assert found == [(ema, rate, seed) for ema in (0.9, 0.99) for rate in (1e-4, 5e-4, 1e-3) for seed in (4, 5)]
    assert {one.seed for one in recipes} == {4}
    assert trials[2].variant == "train.ema_decay=0.9, phases.0.learning_rate=0.0005"


@pytest.mark.parametrize(
    ("grid", "seeds", "message"),
    [
        (["train.ema_decay"], 1, "--grid: expected key.path=value"),
        (["train.ema_decay=0.9"], 1, r"--grid: expected KEY=\[VALUE"),
        (["train.ema_decay=[]"], 1, r"--grid: expected KEY=\[VALUE"),
        (["train.ema_decay=[0.9, 0.9]"], 1, "--grid: train.ema_decay or one of its values is given twice"),
        (["train.seed=[1, 2]"], 1, "--grid: train.seed is not an axis; give --seeds N"),
        (["seed=[1, 2]"], 1, "--grid: seed is not an axis"),
        (["train.ema_decay=[0.9]"], 0, "--seeds: at least 1 is needed"),
    ],
)
def test_a_grid_that_makes_no_sense_is_named(grid: list[str], seeds: int, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        sweep(load_recipe("demo"), grid, seeds)


def outcome(variant: str, seed: int, **figures: float) -> Outcome:
    return Outcome(Trial(variant, seed, {}), 0.25 * (seed + 1), {f"mask/{name}": v for name, v in figures.items()})


def test_the_table_has_mean_and_sample_deviation_over_the_seeds() -> None:
    outcomes = [outcome("a", 0, miou=0.5), outcome("a", 1, miou=0.7), outcome("b", 0, miou=0.4)]
    text = tables(outcomes)[0].splitlines()
    assert [cell.strip() for cell in text[0].split("|")] == [
        "",
        "Text + Mask",
        "seeds",
        "held-out loss ↓",
        "mIoU ↑",
        "",
    ]
    # The deviation of two values is their difference over the root of two.
    assert [cell.strip() for cell in text[2].split("|")] == ["", "a", "2", "0.3750 ± 0.1768", "0.6000 ± 0.1414", ""]
    assert [cell.strip() for cell in text[3].split("|")] == ["", "b", "1", "0.2500", "0.4000", ""]
    assert spread([1.0, math.nan]) == "nan"
    assert spread([]) == "-"


def test_the_table_of_an_ablation_shows_the_parts_of_each_model() -> None:
    base = load_recipe("demo")
    trials = ablation(base)
    recipes = {trial.variant: recipe_of("demo", trial) for trial in trials}
    lines = tables([Outcome(trial) for trial in trials], recipes)[0].splitlines()
    parts = [[cell.strip() for cell in line.split("|")[2:6]] for line in (lines[0], *lines[2:])]
    assert parts == [
        ["modality embedder", "two streams", "RoPE", "VAE"],
        ["", "", "", "zoo:vae"],
        ["✓", "", "", "zoo:vae"],
        ["✓", "✓", "", "zoo:vae"],
        ["✓", "✓", "✓", "zoo:vae"],
        ["✓", "✓", "✓", "zoo:vae"],
    ]


def test_a_stand_in_never_has_the_name_of_the_standard_metric_and_obedience_belongs_to_one_drawing() -> None:
    figures = {
        "mask/fid": 1.0,
        "mask/frechet_zoo-clip-1a2b3c4d_64px_n8-9f8e7d6c": 2.0,
        "mask/lpips_zoo-parser": 0.1,
        "mask/miou": 0.5,
        "mask/source_miou": 0.9,
        "sketch/miou": 0.2,
        "sketch/edge_agreement": 0.3,
        "sketch/edge_agreement_baseline": 0.1,
    }
    outcomes = [Outcome(Trial("a", 0, {}), figures=figures)]
    assert list(columns(outcomes, "mask").values()) == [
        "FID ↓",
        "Fréchet zoo-clip-1a2b3c4d ↓",
        "LPIPS zoo-parser ↓",
        "mIoU ↑",
    ]
    assert list(columns(outcomes, "sketch")) == ["sketch/edge_agreement"]


def test_variants_are_ordered_by_the_mean_of_a_figure_in_its_direction() -> None:
    outcomes = [
        outcome("a", 0, miou=0.9, kid=0.3),
        outcome("a", 1, miou=0.1, kid=0.1),
        outcome("b", 0, miou=0.6, kid=0.1),
    ]
    outcomes.append(Outcome(Trial("c", 0, {}), stopped=3))
    for metric, expected in (("mask/miou", "baac"), ("mask/kid", "baac"), ("held_out/loss", "baac")):
        made = "".join(one.trial.variant for one in ranked(outcomes, metric))
        assert made == expected, metric
    assert "c (1 stopped early)" in tables(outcomes)[0]
