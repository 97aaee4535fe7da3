"""Starting weights: random, from a released checkpoint or from a bundle; checked strictly, identified by content."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmface import plan
from mmface.bundles.weights import AUTHORS_FILE, found_weights, pin, weights_identity
from mmface.config import Recipe
from mmface.errors import InputError, RecipeError
from mmface.model import MMFaceDiT
from mmface.train.hooks import Hooks
from mmface.train.loop import train_phase
from mmface.train.rows.sets import TrainingSet
from mmface.train.start import build_transformer, check_start

HOOKS = Hooks(lambda entry: None, lambda state: None)


def starting(recipe: Recipe, start: Path | str, **model: Any) -> Recipe:
    """The recipe with this start, and components whose widths are not known on this machine."""
    components = recipe.components.model_copy(update={"vae": "some/vae", "text_encoder": "some/encoder"})
    return recipe.model_copy(
        update={
            "components": components,
            "train": recipe.train.model_copy(update={"start": str(start)}),
            "model": recipe.model.model_copy(update={"text_rope": "zero", **model}),
        }
    )


@pytest.fixture
def state(recipe: Recipe, data: TrainingSet) -> dict[str, Tensor]:
    model = build_transformer(recipe.model_copy(update={"seed": 99}), data, None)
    return {name: tensor + 0.01 for name, tensor in model.state_dict().items()}


@pytest.fixture
def released(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    """A folder like those of the authors: weights in training and optimizer next to the average."""
    folder = tmp_path / "dit" / "checkpoint-7"
    folder.mkdir(parents=True)
    save_file(state, folder / AUTHORS_FILE)
    save_file({name: tensor + 1 for name, tensor in state.items()}, folder / "model.safetensors")
    torch.save({"state": {}}, folder / "optimizer.bin")
    return folder.parent


def assert_weights(model: MMFaceDiT, state: dict[str, Tensor]) -> None:
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name].float()), name
        assert tensor.dtype == torch.float32


def test_training_starts_from_a_released_checkpoint(recipe, data, released, state):
    recipe = starting(recipe, released)
    check_start(recipe)
    model = build_transformer(recipe, data, None)
    assert_weights(model, state)
    drawn = build_transformer(starting(recipe, "scratch"), data, None)
    for name, parameter in drawn.named_parameters():  # parameters without gradient stay frozen
        assert model.get_parameter(name).requires_grad == parameter.requires_grad, name
    assert model.config == drawn.config
    assert train_phase(recipe, 0, data, hooks=HOOKS).step == 12


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("weights.safetensors", None),
        ("weights.pt", lambda state: {"epoch": 3, "ema": {f"module.{name}": state[name] for name in state}}),
        ("weights.bin", lambda state: {"state_dict": {f"_orig_mod.module.{name}": state[name] for name in state}}),
        ("weights.pth", lambda state: {"model": {name: tensor.bfloat16() for name, tensor in state.items()}}),
    ],
)
def test_wrapped_state_dicts_load(recipe, data, tmp_path, state, name, wrap):
    if wrap is None:
        save_file(state, tmp_path / name)
    else:
        torch.save(wrap(state), tmp_path / name)
        torch.save({}, tmp_path / "optimizer.bin")
    expected = {key: tensor.bfloat16() for key, tensor in state.items()} if name.endswith("pth") else state
    for start in (tmp_path, tmp_path / name):
        check_start(starting(recipe, start))
        assert_weights(build_transformer(starting(recipe, start), data, None), expected)


@pytest.mark.parametrize("what", ["missing", "unexpected"])
def test_weights_that_do_not_match_their_config_are_refused(recipe, data, tmp_path, what):
    build_transformer(recipe, data, None).save_pretrained(tmp_path / "transformer")
    file = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    name = next(iter(weights)) if what == "missing" else "another.weight"
    if what == "missing":
        del weights[name]
    else:
        weights[name] = torch.zeros(1)
    save_file(weights, file)
    with pytest.raises(InputError, match=rf"1 {what} weights \({name}\)"):
        build_transformer(recipe, data, tmp_path)


@pytest.mark.parametrize("inside", ["transformer", "."])
def test_training_starts_from_a_bundle_or_a_transformer_saved_by_diffusers(recipe, data, tmp_path, inside):
    saved = build_transformer(recipe.model_copy(update={"seed": 5}), data, None)
    saved.save_pretrained(tmp_path / inside)
    recipe = starting(recipe, tmp_path, text_rope="sequential")
    check_start(recipe)
    assert_weights(build_transformer(recipe, data, None), saved.state_dict())
    with pytest.raises(RecipeError, match=r"model\.text_rope: the recipe has text_rope zero"):
        build_transformer(starting(recipe, tmp_path), data, None)


@pytest.mark.parametrize(
    ("model", "field"),
    [
        ({"text_rope": "sequential"}, "model.text_rope"),
        ({"depth": 3}, "model.depth"),
        ({"hidden_size": 32}, "model.hidden_size"),
        ({"mlp_ratio": 4.0}, "model.mlp_ratio"),
        ({"patch_size": 1}, "model.patch_size"),
        ({"dual_stream": False}, "model.dual_stream"),
        ({"modality_embedder": False}, "model.modality_embedder"),
        ({"rope": False}, "model.rope"),
    ],
)
def test_another_architecture_is_refused_before_training_with_its_recipe_key(recipe, data, released, model, field):
    other = starting(recipe, released, **model)
    for refuse in (check_start, lambda it: build_transformer(it, data, None), lambda it: train(it, data)):
        with pytest.raises(RecipeError) as caught:
            refuse(other)
        assert caught.value.field == field


def train(recipe: Recipe, data: TrainingSet) -> None:
    train_phase(
        recipe, 0, data, hooks=Hooks(lambda entry: pytest.fail("trained"), lambda state: pytest.fail("trained"))
    )


def test_components_of_another_width_are_refused(recipe, released):
    zoo = starting(recipe, released).model_copy(update={"components": recipe.components})
    with pytest.raises(RecipeError, match=r"^components\.vae: the recipe has in_channels \d+, but the weights have 4"):
        check_start(zoo)


def damaged(state: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    state = dict(state)
    if how == "lacks":
        del state["t_embedder.mlp.0.bias"]
    elif how == "unknown":
        state["blocks.0.extra"] = torch.zeros(1)
    else:
        state["final_layer.linear.bias"] = torch.zeros(3)
    return state


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("lacks", "lacks: t_embedder.mlp.0.bias"),
        ("unknown", "has unknown keys: blocks.0.extra"),
        ("shape", r"final_layer.linear.bias has the shape \[3\], expected \[8\]"),
    ],
)
def test_other_keys_or_shapes_are_refused(recipe, data, tmp_path, state, how, message):
    save_file(damaged(state, how), tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match=message):
        build_transformer(starting(recipe, tmp_path), data, None)


@pytest.mark.parametrize("content", [b"", b"no weights", None])
def test_a_file_that_is_not_a_checkpoint_is_refused(recipe, data, tmp_path, content):
    for name in ("weights.safetensors", "weights.pt"):
        file = tmp_path / name
        if content is None:
            shutil.copy(Path(__file__), file)
        else:
            file.write_bytes(content)
        with pytest.raises(InputError, match="is not a checkpoint"):
            build_transformer(starting(recipe, file), data, None)
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(InputError, match="does not hold a state dict"):
        build_transformer(starting(recipe, tmp_path / "list.pt"), data, None)


def test_missing_and_ambiguous_weights_and_bad_names_are_refused(recipe, tmp_path, released):
    (tmp_path / "empty").mkdir()
    second = released / "checkpoint-8"
    shutil.copytree(released / "checkpoint-7", second)
    for name, message in {
        str(tmp_path / "empty"): "holds no weights",
        str(released): r"several weight files: checkpoint-7/.*, checkpoint-8/.*; name one of them",
        str(tmp_path / "gone"): "there is no folder or file",
        "nonsense": "there is no folder or file",
        "owner/name": "is not a local path and was not found on the hub",
        "models:/only": "write models:/NAME@ALIAS",
    }.items():
        with pytest.raises(RecipeError, match=message) as caught, found_weights(name):
            pass
        assert caught.value.field == "train.start"


def test_the_identity_depends_on_the_bytes_of_the_weights_only(recipe, released, tmp_path):
    def identity(start: Path | str) -> str:
        return plan.train(starting(recipe, start), 0, "latents/a", "text/b", None).fingerprint

    before = identity(released)
    copied = tmp_path / "copied"
    shutil.copytree(released, copied)
    assert identity(copied) == before  # neither the folder nor other files in it count
    (copied / "checkpoint-7" / "optimizer.bin").write_bytes(b"other")
    assert identity(copied) == before
    file = copied / "checkpoint-7" / AUTHORS_FILE
    save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, file)
    assert identity(copied) != before
    scratch = identity("scratch")
    assert scratch not in (before, identity("owner/name"))
    weights = plan.train(starting(recipe, released), 0, "latents/a", "text/b", None).weights
    assert weights == {"start": weights_identity(str(released))}
    later = [plan.train(starting(recipe, start), 1, "l/a", "t/b", "train-0/c") for start in (released, "scratch")]
    assert later[0].fingerprint == later[1].fingerprint  # a later phase is identified by the previous phase
    assert pin(str(released)) == str(released)
