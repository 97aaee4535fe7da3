"""The assembled transformer: size, ablation switches, and the features that it inherits from diffusers."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.hooks import FirstBlockCacheConfig
from torch import Tensor, nn

from mmface.errors import InputError, RecipeError
from mmface.model import Conditioning, MMFaceDiT
from mmface.model.embedders import PatchEmbed, sinusoids, unpatchify

SMALL: dict[str, Any] = {"in_channels": 8, "hidden_size": 32, "depth": 2, "num_heads": 2, "text_embed_dim": 12}


def build(**changes: Any) -> MMFaceDiT:
    """A small model with noise added to its zero-initialised weights, so that every input has an effect."""
    torch.manual_seed(0)
    model = MMFaceDiT(**{**SMALL, **changes}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def inputs(height: int = 8, width: int = 8, batch: int = 2, length: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(batch, 8, height, width, generator=generator),
        "timestep": torch.linspace(10, 900, batch),
        "encoder_hidden_states": torch.randn(batch, length, 12, generator=generator),
        "pooled_projections": torch.randn(batch, 12, generator=generator),
        "modality": torch.arange(batch) % 2,
    }


@torch.no_grad()
def run(model: nn.Module, **given: Tensor) -> Tensor:
    return model(**given).sample


def test_paper_size() -> None:
    with torch.device("meta"):
        model = MMFaceDiT()
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_345_298_624
    assert len(model.state_dict()) == 520


def test_output_starts_at_zero_and_has_half_the_channels() -> None:
    sample = run(MMFaceDiT(**SMALL), **inputs())
    assert sample.shape == (2, 4, 8, 8)
    assert not sample.any()


@pytest.mark.parametrize(("height", "width"), [(4, 10), (10, 4), (6, 6)])
def test_any_size_divisible_by_the_patch_works(height: int, width: int) -> None:
    given = inputs(height, width)
    assert run(build(), **given).shape == (2, 4, height, width)
    tuple_output = build()(**given, return_dict=False)
    assert isinstance(tuple_output, tuple)


@pytest.mark.parametrize(("height", "width"), [(7, 8), (8, 9)])
def test_other_sizes_are_refused(height: int, width: int) -> None:
    with pytest.raises(InputError) as error:
        run(build(), **inputs(height, width))
    assert error.value.field == "size"


@pytest.mark.parametrize(("changes", "field"), [({"num_heads": 3}, "hidden_size"), ({"in_channels": 7}, "in_channels")])
def test_impossible_shapes_are_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(RecipeError) as error:
        MMFaceDiT(**{**SMALL, **changes})
    assert error.value.field == field


def test_unpatchify_undoes_patches() -> None:
    latents = torch.randn(2, 3, 6, 4, generator=torch.Generator().manual_seed(2))
    # A convolution that copies pixel (p, q, c) of a patch to output (p, q, c).
    embed = PatchEmbed(3, 2, 12)
    with torch.no_grad():
        embed.proj.bias.zero_()
        embed.proj.weight.copy_(torch.eye(12).view(2, 2, 3, 12).permute(3, 2, 0, 1))
        torch.testing.assert_close(unpatchify(embed(latents), 3, 2, 2), latents)


def test_sinusoids_are_cosines_then_sines() -> None:
    features = sinusoids(torch.tensor([0.0, 3.0]))
    torch.testing.assert_close(features[0], torch.cat([torch.ones(128), torch.zeros(128)]))
    torch.testing.assert_close(
        features[1, [0, 128]],
        torch.tensor([3.0]).repeat(2).cos().where(torch.tensor([True, False]), torch.tensor(3.0).sin()),
    )


def permute_patches(latents: Tensor, order: Tensor) -> Tensor:
    patches = latents.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    grid = patches[:, order].unflatten(1, (latents.shape[2] // 2, -1))
    return grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


@pytest.mark.parametrize("rope", [True, False])
def test_only_rope_makes_attention_depend_on_positions(rope: bool) -> None:
    model, given = build(rope=rope), inputs()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    moved = run(model, **{**given, "hidden_states": permute_patches(given["hidden_states"], order)})
    same = torch.allclose(moved, permute_patches(run(model, **given), order), atol=1e-5)
    assert same is not rope


@pytest.mark.parametrize("text_rope", ["zero", "sequential"])
def test_only_sequential_text_rope_depends_on_the_word_order(text_rope: str) -> None:
    model, given = build(text_rope=text_rope), inputs()
    turned = run(model, **{**given, "encoder_hidden_states": given["encoder_hidden_states"].flip(1)})
    assert torch.allclose(turned, run(model, **given), atol=1e-6) is (text_rope == "zero")


@pytest.mark.parametrize("dual_stream", [True, False])
def test_masked_text_has_no_effect(dual_stream: bool) -> None:
    model, given = build(dual_stream=dual_stream), inputs(length=5)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    masked = run(model, **given, encoder_attention_mask=mask)
    torch.testing.assert_close(masked[:1], run(model, **{name: value[:1] for name, value in given.items()}))
    short = {name: value[1:] for name, value in given.items()}
    short["encoder_hidden_states"] = short["encoder_hidden_states"][:, :3]
    torch.testing.assert_close(masked[1:], run(model, **short))
    assert not torch.allclose(masked[1:], run(model, **given)[1:])


@pytest.mark.parametrize("modality_embedder", [True, False])
def test_only_the_embedder_makes_the_output_depend_on_the_modality(modality_embedder: bool) -> None:
    model, given = build(modality_embedder=modality_embedder), inputs()
    other = run(model, **{**given, "modality": 1 - given["modality"]})
    assert torch.equal(other, run(model, **given)) is not modality_embedder
    assert ("modality_embedder.weight" in model.state_dict()) is modality_embedder


def test_single_stream_shares_its_weights() -> None:
    keys = set(build(dual_stream=False).state_dict())
    assert not any("_t." in key or "mlp_t" in key for key in keys)
    assert {"blocks.0.attn.to_q.weight", "blocks.0.mlp_i.0.weight"} <= keys


SWITCHES = list(itertools.product([True, False], repeat=3))


@pytest.mark.parametrize(("modality_embedder", "dual_stream", "rope"), SWITCHES)
def test_round_trip_is_bit_exact(tmp_path: Path, modality_embedder, dual_stream, rope) -> None:
    model = build(modality_embedder=modality_embedder, dual_stream=dual_stream, rope=rope, text_rope="zero")
    model.save_pretrained(tmp_path)
    again = MMFaceDiT.from_pretrained(tmp_path)
    assert [path.suffix for path in tmp_path.glob("*.safetensors")] == [".safetensors"]
    assert again.config["text_rope"] == "zero"
    assert torch.equal(run(again, **inputs()), run(model, **inputs()))
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, parameter in again.named_parameters() if not parameter.requires_grad}


@pytest.mark.parametrize(("modality_embedder", "dual_stream", "rope"), SWITCHES)
def test_exactly_the_trainable_parameters_get_gradients(modality_embedder, dual_stream, rope) -> None:
    model = build(modality_embedder=modality_embedder, dual_stream=dual_stream, rope=rope)
    model(**inputs()).sample.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) is parameter.requires_grad, name


def test_distributed_data_parallel_needs_no_flags(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(build())
        for _ in range(2):  # the second step raises if the first left a parameter without gradient
            wrapped(**inputs()).sample.mean().backward()
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("dual_stream", [True, False])
def test_checkpointing_changes_no_gradient(dual_stream: bool) -> None:
    norms = []
    for checkpointing in (False, True):
        model = build(dual_stream=dual_stream)
        if checkpointing:
            model.enable_gradient_checkpointing()
        model(**inputs()).sample.square().mean().backward()
        norms.append([p.grad.norm() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*norms)


def test_bfloat16_autocast_and_cast_stay_close() -> None:
    model, given = build(), inputs()
    exact = run(model, **given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (run(model, **given) - exact).norm() < 0.02 * exact.norm()
    half = {name: value.bfloat16() if value.ndim > 1 else value for name, value in given.items()}
    cast = run(model.to(torch.bfloat16), **half)
    assert cast.dtype == torch.bfloat16
    assert (cast.float() - exact).norm() < 0.03 * exact.norm()


def test_layerwise_casting() -> None:
    model, given = build(), inputs()
    exact = run(model, **given)
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert model.blocks[0].mlp_i[0].weight.dtype == torch.float8_e4m3fn
    assert model.final_layer.linear.weight.dtype == torch.float32
    assert (run(model, **given) - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("dual_stream", [True, False])
def test_first_block_cache(dual_stream: bool) -> None:
    model, given = build(depth=3, dual_stream=dual_stream), inputs()
    exact = run(model, **given)
    calls: list[int] = []
    model.blocks[1].attn.register_forward_hook(lambda *_: calls.append(1))
    model.enable_cache(FirstBlockCacheConfig(threshold=0.5))
    with model.cache_context("guided"):
        torch.testing.assert_close(run(model, **given), exact)
        torch.testing.assert_close(run(model, **given), exact, rtol=1e-4, atol=1e-5)
    assert len(calls) == 1  # the second evaluation reused the first one's residual
    model.disable_cache()


def test_blocks_compile_without_graph_breaks() -> None:
    model, given = build(), inputs()
    exact = run(model, **given)
    model.compile_repeated_blocks(backend="eager", fullgraph=True)
    torch.testing.assert_close(run(model, **given), exact)


def test_joined_masked_texts_are_padded_to_the_longest() -> None:
    def of(length: int) -> Conditioning:
        text, mask = torch.ones(1, length, 3), torch.ones(1, length, dtype=torch.bool)
        return Conditioning(torch.zeros(1, 1, 2, 2), text, torch.zeros(1, 3), torch.zeros(1).long(), mask)

    joined = Conditioning.cat(of(2), of(4))
    assert joined.encoder_attention_mask is not None
    assert joined.encoder_attention_mask.tolist() == [[True] * 2 + [False] * 2, [True] * 4]
    assert torch.equal(joined.encoder_hidden_states[..., 0], joined.encoder_attention_mask.float())
