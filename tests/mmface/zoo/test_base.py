"""Training of ``zoo:base``: its stream of portraits, resuming, and where its weights may be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mmface.config import Recipe
from mmface.config.load import load_recipe
from mmface.data.portraits import draw
from mmface.errors import RecipeError
from mmface.imaging.pixels import mask_to_tensor, to_tensor
from mmface.networks.components import encoder_identity, load_text_encoder, load_vae
from mmface.networks.places import resolve
from mmface.networks.text_encoder import encode_text
from mmface.networks.vae import encode_moments, normalisation
from mmface.store import HOME_VARIABLE, home
from mmface.train.start import check_start
from mmface.zoo import measure_base, train_base
from mmface.zoo.stream import Stream

WEIGHTS = "diffusion_pytorch_model.safetensors"
PHASE = "resolution: 32, batch_size: 4, learning_rate: 1.0e-3"
SMALL = (
    "model.hidden_size=64",
    "model.depth=2",
    "model.num_heads=2",
    "train.checkpoint_every=4",
    "train.precision=fp32",
)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("demo", [f"phases=[{{{PHASE}, steps: 12}}, {{{PHASE}, steps: 8}}]", *SMALL])


@pytest.fixture(scope="module")
def trained(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(HOME_VARIABLE, str(tmp_path_factory.mktemp("home")))
        train_base.train(out, recipe=recipe, window=8, uses=2)
        assert list(home().list("runs")) == []
    return out


def test_the_stream_has_the_latents_and_texts_of_its_portraits(recipe: Recipe) -> None:
    rows, portrait = Stream(recipe).rows(40, 2), draw(41, 32)
    vae = load_vae(recipe.components.vae)
    mean, std = (values[:, None, None] for values in normalisation(vae, 16))
    pixels = [to_tensor(Image.fromarray(portrait.image), 32), mask_to_tensor(portrait.mask, 32)]
    with torch.inference_mode():
        latents = (encode_moments(vae, torch.stack(pixels))[0] - mean) / std
    assert np.allclose(rows.image[1], latents[0], atol=1e-4)
    assert np.allclose(rows.conditions[0][1], latents[1], atol=1e-4)
    text = encode_text(*load_text_encoder(recipe.components.text_encoder), list(portrait.captions))
    sequence, pooled = rows.texts.read(1, 3)
    assert np.allclose(sequence, text.sequence[3], atol=1e-5)
    assert np.allclose(pooled, text.pooled[3], atol=1e-5)


def test_an_interrupted_training_ends_with_the_same_weights(
    recipe: Recipe, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    for phase, step in ((0, 8), (1, 4)):
        with monkeypatch.context() as patch:
            patch.setattr(train_base, "_print", lambda index, entry, at=(phase, step): _interrupt(index, entry, at))
            with pytest.raises(KeyboardInterrupt):
                train_base.train(tmp_path / "out", recipe=recipe, window=8, uses=2)
    train_base.train(tmp_path / "out", recipe=recipe, window=8, uses=2)
    once, again = load_file(trained / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
    assert all(torch.equal(again[name], once[name]) for name in once)
    assert {value.dtype for value in once.values()} == {torch.bfloat16}
    assert (tmp_path / "out" / train_base.LOG).read_text() == (trained / train_base.LOG).read_text()


def _interrupt(index: int, entry: dict[str, float], at: tuple[int, int]) -> None:
    if (index, entry["step"]) == at:
        raise KeyboardInterrupt


def test_the_base_starts_only_recipes_with_its_vae_and_text_encoder(
    recipe: Recipe, trained: Path, tmp_path: Path
) -> None:
    start = [f"train.start={trained}", "model.hidden_size=64", "model.depth=2", "model.num_heads=2"]
    check_start(load_recipe("demo", start))
    other = tmp_path / "vae"
    other.mkdir()
    for file in Path(resolve("zoo:vae")).iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    _change(other, "decoder.")
    assert encoder_identity(str(other)) == encoder_identity("zoo:vae")
    check_start(load_recipe("demo", [*start, f"components.vae={other}"]))
    _change(other, "encoder.")
    with pytest.raises(RecipeError, match=r"train\.start=scratch") as refused:
        check_start(load_recipe("demo", [*start, f"components.vae={other}"]))
    assert refused.value.field == "components.vae"
    with pytest.raises(RecipeError, match="hidden_size"):
        check_start(load_recipe("demo", start[:1]))


def test_the_base_is_measured_like_a_model_of_the_demo(trained: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure_base, "SIZE", 32)
        figures = measure_base.measure_base(trained, n=4)
    assert set(figures) == {f"base {name}" for name in measure_base.SHOWN}
    assert 0 < figures["base mask/miou"] < 0.5  # of eight steps


def _change(folder: Path, prefix: str) -> None:
    file = folder / WEIGHTS
    weights = load_file(file)
    name = next(name for name in weights if name.startswith(prefix))
    save_file(weights | {name: weights[name] + 1}, file, metadata={"format": "pt"})
