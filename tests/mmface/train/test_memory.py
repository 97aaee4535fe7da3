"""Predicted memory: exact for weights, average and moments, and close to what a real step allocates."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flows.cli.command_line import main
from mmface.config import Recipe
from mmface.config.load import load_recipe
from mmface.estimate.shapes import Shapes
from mmface.model import Conditioning, MMFaceDiT
from mmface.objectives import make_objective
from mmface.train.memory import Peak, Place, training_peak
from mmface.train.placement import recompute

SIZES = ["model.hidden_size=64", "model.depth=2", "model.num_heads=4"]
ALONE = Place(1, "cpu")


def recipe_of(*settings: str) -> Recipe:
    phase = "phases=[{resolution: 64, steps: 1, batch_size: 8, accumulation: 1}]"
    return load_recipe("demo", [*SIZES, phase, "train.precision=fp32", *settings])


def peak(*settings: str, place: Place = ALONE) -> Peak:
    recipe = recipe_of(*settings)
    return training_peak(Shapes(recipe), recipe.phases[0], place)


@pytest.fixture(scope="module")
def counts() -> tuple[int, int]:
    """Number of weights, and of trainable weights."""
    parameters = list(Shapes(recipe_of()).transformer.parameters())
    return sum(one.numel() for one in parameters), sum(one.numel() for one in parameters if one.requires_grad)


def test_weights_average_and_moments_are_counted_to_the_byte(counts: tuple[int, int]):
    weights, learning = counts
    parts = peak().parts
    assert parts["weights"] == parts["average"] == 4 * weights
    assert parts["optimizer"] == 8 * learning
    pure = peak("train.precision=bf16-pure").parts
    assert (pure["weights"], pure["average"], pure["optimizer"]) == (2 * weights, 4 * weights, 4 * learning)
    assert peak(place=Place(1, "cpu", average=False)).parts["average"] == 0
    assert 2 * learning < peak("train.optimizer=adamw8bit").parts["optimizer"] < 2.5 * learning


class Watched(TorchDispatchMode):
    """Counts the live bytes of a real run and their maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and (key := tensor.untyped_storage()._cdata) not in self.live:
                self.live[key] = tensor.untyped_storage().nbytes()
                weakref.finalize(tensor.untyped_storage(), self.live.pop, key)
                self.most = max(self.most, sum(self.live.values()))
        return made


@pytest.mark.parametrize(
    "settings",
    [[], ["train.gradient_checkpointing=true"], ["train.gradient_checkpointing=1", "train.precision=bf16"]],
)
def test_the_prediction_equals_what_a_real_step_allocates(settings: list[str]):
    recipe = recipe_of(*settings)
    shapes, train = Shapes(recipe), recipe.train
    config = shapes.transformer.config
    sizes = {name: config[name] for name in ("in_channels", "text_embed_dim")}
    latent, text = (8, *shapes.latent(64)), (8, shapes.text_length, shapes.text_width)
    with Watched() as watched:
        model = MMFaceDiT(**sizes, **recipe.model.model_dump())
        recompute(model, train)
        held = [torch.empty_like(one) for one in model.parameters() for _ in range(3 if one.requires_grad else 1)]
        pooled, kind = torch.randn(8, shapes.text_width), torch.zeros(8, dtype=torch.long)
        given = torch.randn(latent), torch.randn(latent), torch.rand(8)
        conditioning = Conditioning(torch.randn(latent), torch.randn(text), pooled, kind)
        objective = make_objective(**recipe.objective.model_dump())
        with torch.autocast("cpu", torch.bfloat16, enabled=train.precision == "bf16"):
            objective(model, given[0], given[1], objective.timesteps(given[2]), conditioning).loss.sum().backward()
    del held
    assert training_peak(shapes, recipe.phases[0], ALONE).total == pytest.approx(watched.most, rel=0.01)


def test_recomputation_and_accumulation_need_less_memory_and_larger_images_more():
    deep, recomputed = peak("model.depth=8"), peak("model.depth=8", "train.gradient_checkpointing=true")
    assert recomputed.parts["activations"] < 0.5 * deep.parts["activations"]
    whole = peak()
    parts = peak("phases.0.accumulation=4")
    assert (parts.samples, whole.samples) == (2, 8)
    assert parts.parts["activations"] < 0.4 * whole.parts["activations"]
    assert peak("phases.0.resolution=128").total > whole.total
    assert peak("train.precision=bf16").parts["weight copies"] > 0
    assert whole.parts["weight copies"] == 0


def test_workers_share_samples_and_shards(counts: tuple[int, int]):
    weights, learning = counts
    ddp, fsdp = (peak(f"train.parallel={name}", place=Place(4, "cuda")) for name in ("ddp", "fsdp"))
    assert ddp.samples == fsdp.samples == 2
    assert ddp.parts["gradients"] == 4 * learning
    assert ddp.parts["weights"] == 4 * fsdp.parts["weights"] == 4 * weights
    assert fsdp.parts["optimizer"] == 2 * learning
    assert fsdp.parts["weight copies"] > 0
    # With several micro-batches every worker keeps full gradients.
    phase = "phases=[{resolution: 64, steps: 1, batch_size: 8, accumulation: 2}]"
    for precision in ("fp32", "bf16-pure"):
        several = peak(phase, "train.parallel=fsdp", f"train.precision={precision}", place=Place(4, "cuda"))
        assert several.parts["gradients"] == 4 * learning


@pytest.fixture
def default_dtype_stays() -> Iterator[None]:
    before = torch.get_default_dtype()
    yield
    assert torch.get_default_dtype() == before


@pytest.mark.usefixtures("default_dtype_stays")
def test_the_command_says_whether_a_recipe_fits(capsys: pytest.CaptureFixture[str]):
    sizes = ["--set", "model.depth=2", "--set", "model.hidden_size=256"]
    command = ["estimate", "--recipe", "paper-flow", "--memory", *sizes]
    assert main(command) == 0
    output = capsys.readouterr().out
    for word in ("2 GPUs, ddp", "256 px", "512 px", "weights", "peak", "2 x 32 GiB fits"):
        assert word in output
    assert main([*command, "--gpus", "8xA100", "--gpu-memory", "1"]) == 0
    assert "8 x 1 GiB does not fit" in capsys.readouterr().out
    for wrong, field in ((["--gpu-memory", "0"], "--gpu-memory"), (["--gpus", "8xNone"], "--gpus")):
        assert main([*command, *wrong]) == 2
        assert f"mmface: error: {field}: " in capsys.readouterr().err
    assert main(["estimate", "--recipe", "demo"]) == 2
    assert "mmface: error: --images: " in capsys.readouterr().err
