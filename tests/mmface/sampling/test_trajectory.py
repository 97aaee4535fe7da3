"""Trajectories that share network evaluations give the same bits as each trajectory alone."""

from __future__ import annotations

import pytest
import torch
from diffusers.hooks import FirstBlockCacheConfig
from torch import Tensor

from mmface.config.guidance import Guidance
from mmface.model import Conditioning, MMFaceDiT
from mmface.sampling import Trajectory, advance, make_scheduler, sample
from tests import tiny

PAIRS = [(objective, sampler) for objective in ("flow", "ddpm") for sampler in ("euler", "heun", "dpmpp", "unipc")]


@pytest.fixture(scope="module")
def transformer() -> MMFaceDiT:
    """A transformer with noise added to all weights, since gates initialised to zero would hide the blocks."""
    made = tiny.transformer()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return made


def given(seed: int, masked: bool = False) -> tuple[Tensor, Conditioning, Conditioning]:
    """Noise, conditions and negative conditions of one image."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    def text(words: int) -> tuple[Tensor, Tensor, Tensor | None]:
        mask = torch.arange(tiny.TOKENS) < words
        return draw(1, tiny.TOKENS, tiny.TEXT_WIDTH), draw(1, tiny.TEXT_WIDTH), mask[None] if masked else None

    noise, drawing = draw(1, tiny.CHANNELS, 8, 8), draw(1, tiny.CHANNELS, 8, 8)
    sequence, pooled, mask = text(3 + seed % 9)
    wanted = Conditioning(drawing, sequence, pooled, torch.tensor([seed % 2]), mask)
    return noise, wanted, wanted.with_text(*text(2))


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("objective", ["flow", "ddpm"])
def test_shared_evaluations_change_no_bit(transformer: MMFaceDiT, objective: str, masked: bool, bf16: bool) -> None:
    plans = [
        ("euler", 5, Guidance(2.0)),
        ("heun", 3, Guidance()),
        ("dpmpp", 7, Guidance(4.0, 2.0)),
        ("unipc", 4, Guidance(1.0, 1.5, 0.3, 0.9)),
        ("euler", 9, Guidance(3.0, 1.0, 0.2, 0.6)),
    ]

    def start(number: int) -> Trajectory:
        sampler, steps, guidance = plans[number]
        noise, wanted, negative = given(number, masked)
        scheduler = make_scheduler(objective, sampler)
        options = {"num_inference_steps": steps, "guidance": guidance}
        return Trajectory(scheduler, noise, wanted, negative, **options)

    alone = [start(number) for number in range(len(plans))]
    for one in alone:
        while not one.finished:
            advance(transformer, [one], bf16=bf16)
    together = [start(number) for number in range(len(plans))]
    for joined in range(1, 40):  # at every step one more trajectory joins; each leaves when it is finished
        active = [one for one in together[:joined] if not one.finished]
        if active:
            advance(transformer, active, bf16=bf16)
    for one, other in zip(alone, together, strict=True):
        assert one.done == other.done == one.steps
        assert torch.equal(one.latents, other.latents)


def test_caches_keep_apart_steps_with_and_without_guidance(transformer: MMFaceDiT) -> None:
    noise, wanted, negative = given(1)
    settings = {"num_inference_steps": 6, "guidance": Guidance(2.0, 1.5, 0.3, 0.7)}
    scheduler = make_scheduler("flow", "euler")
    exact = sample(transformer, scheduler, noise, wanted, negative, **settings)
    transformer.enable_cache(FirstBlockCacheConfig(threshold=1e-9))  # reuses nothing
    cached = sample(transformer, scheduler, noise, wanted, negative, **settings)
    transformer.disable_cache()
    torch.testing.assert_close(cached, exact)


@pytest.mark.parametrize(("objective", "sampler"), PAIRS)
def test_the_estimate_converges_to_the_result(transformer: MMFaceDiT, objective: str, sampler: str) -> None:
    noise, wanted, _ = given(5)
    trajectory = Trajectory(make_scheduler(objective, sampler), noise, wanted, num_inference_steps=12)
    far = None
    while not trajectory.finished:
        advance(transformer, [trajectory])
        far = far if far is not None else trajectory.estimate
    last = (trajectory.estimate - trajectory.latents).square().mean()
    first = (far - trajectory.latents).square().mean()
    assert last < 0.05 * first or last < 1e-3
    assert torch.equal(
        trajectory.latents,
        sample(transformer, make_scheduler(objective, sampler), noise, wanted, num_inference_steps=12),
    )
