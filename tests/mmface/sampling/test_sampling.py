"""Schedulers and guidance on a case with a known solution: Gaussian data, whose best predictor is linear.

For data ~ N(mean, deviation²) the probability flow maps noise to data by an affine map, so every solver can be checked.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mmface.config.guidance import Guidance
from mmface.errors import RecipeError
from mmface.model import Conditioning
from mmface.objectives.ddpm import DDPM
from mmface.sampling import make_scheduler, objective_of, sample

B, C, H = 3, 2, 4
MEAN, DEVIATION = 0.7, 0.4
PAIRS = [(objective, sampler) for objective in ("flow", "ddpm") for sampler in ("euler", "heun", "dpmpp", "unipc")]


class GaussianFlow(nn.Module):
    """E[data - noise | x_t] in closed form; ``pooled`` shifts the mean, so that guidance has an effect."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(
        self, hidden_states, timestep, sequence, pooled, modality, mask=None, return_dict=True
    ) -> tuple[Tensor]:
        self.batches.append(len(hidden_states))
        t = (timestep / 999)[:, None, None, None]
        mean = MEAN + pooled[:, :1, None, None]
        variance = (1 - t) ** 2 + (t * DEVIATION) ** 2
        gain = (t * DEVIATION**2 - (1 - t)) / variance
        return (mean + gain * (hidden_states[:, :C] - t * mean),)


class GaussianNoise(GaussianFlow):
    """E[noise | x_t] for DDPM; time may lie between integer steps."""

    def forward(
        self, hidden_states, timestep, sequence, pooled, modality, mask=None, return_dict=True
    ) -> tuple[Tensor]:
        self.batches.append(len(hidden_states))
        alpha = alpha_bar(timestep)[:, None, None, None]
        mean = MEAN + pooled[:, :1, None, None]
        centred = hidden_states[:, :C] - alpha.sqrt() * mean
        return ((1 - alpha).sqrt() * centred / (alpha * DEVIATION**2 + 1 - alpha),)


def alpha_bar(timestep: Tensor) -> Tensor:
    """ᾱ with the sigma interpolated between steps, as k-diffusion's solvers do."""
    alphas = DDPM().alphas_cumprod
    sigmas = ((1 - alphas) / alphas).sqrt()
    low = timestep.floor().long().clamp(0, 998)
    sigma = torch.lerp(sigmas[low], sigmas[low + 1], timestep - low)
    return 1 / (1 + sigma**2)


def conditioning(shift: float = 0.0, batch: int = B) -> Conditioning:
    pooled = torch.full((batch, 5), shift)
    return Conditioning(torch.zeros(batch, C, H, H), torch.zeros(batch, 2, 5), pooled, torch.zeros(batch).long())


def noise(batch: int = B) -> Tensor:
    return torch.randn(batch, C, H, H, generator=torch.Generator().manual_seed(0))


def exact(objective: str, noise: Tensor, mean: float = MEAN) -> Tensor:
    """The exact result of the probability flow for ``noise``."""
    if objective == "flow":
        return mean + DEVIATION * noise
    alpha = DDPM().alphas_cumprod[-1]
    scale = (alpha * DEVIATION**2 + 1 - alpha).sqrt()
    return mean + DEVIATION * (noise - alpha.sqrt() * mean) / scale


def network(objective: str) -> GaussianFlow:
    return GaussianFlow() if objective == "flow" else GaussianNoise()


@pytest.mark.parametrize(("objective", "sampler"), PAIRS)
def test_every_sampler_converges_to_the_exact_result(objective: str, sampler: str) -> None:
    scheduler = make_scheduler(objective, sampler)
    assert objective_of(scheduler) == objective
    errors = []
    for steps in (10, 100):
        latents = sample(network(objective), scheduler, noise(), conditioning(), num_inference_steps=steps)
        errors.append((latents - exact(objective, noise())).abs().max().item())
    assert errors[1] < 0.06, errors
    assert errors[1] < errors[0] / 2, errors


@pytest.mark.parametrize("objective", ["flow", "ddpm"])
def test_second_order_beats_euler(objective: str) -> None:
    error = {}
    for sampler in ("euler", "heun", "dpmpp", "unipc"):
        steps = 11 if sampler == "heun" else 20
        latents = sample(
            network(objective), make_scheduler(objective, sampler), noise(), conditioning(), num_inference_steps=steps
        )
        error[sampler] = (latents - exact(objective, noise())).square().mean().sqrt().item()
    assert max(error["dpmpp"], error["unipc"]) < error["euler"], error


@pytest.mark.parametrize(("objective", "sampler"), PAIRS)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_give_finite_latents(objective: str, sampler: str, steps: int) -> None:
    latents = sample(
        network(objective), make_scheduler(objective, sampler), noise(), conditioning(), num_inference_steps=steps
    )
    assert latents.isfinite().all()


def test_guidance_extrapolates_and_costs_one_forward_of_two_batches() -> None:
    # The predictor is linear in the mean, so guiding from mean 0 to mean 1 by 3 is sampling at mean 3.
    model = network("flow")
    scheduler = make_scheduler("flow", "euler")
    given = {"num_inference_steps": 8}
    guided = sample(model, scheduler, noise(), conditioning(1.0), conditioning(0.0), guidance=Guidance(3.0), **given)
    assert model.batches == [2 * B] * 8
    torch.testing.assert_close(guided, sample(network("flow"), scheduler, noise(), conditioning(3.0), **given))


def test_scale_one_skips_the_negative_half() -> None:
    model = network("flow")
    scheduler = make_scheduler("flow", "euler")
    plain = sample(model, scheduler, noise(), conditioning(1.0), conditioning(0.0), guidance=Guidance(1.0))
    assert set(model.batches) == {B}
    assert torch.equal(plain, sample(model, scheduler, noise(), conditioning(1.0)))


class DrawnFlow(GaussianFlow):
    """The mean of the data also depends on the drawing."""

    def forward(self, hidden_states, timestep, sequence, pooled, modality, mask=None, return_dict=True):
        drawn = hidden_states[:, C:].mean((1, 2, 3))[:, None]
        return super().forward(hidden_states, timestep, sequence, pooled + drawn, modality)


def test_guidance_towards_the_drawing_extrapolates_too() -> None:
    # Linear again: prompt from 0 to 1 by 3, drawing from nothing to 0.5 by 2, each without the other's scale.
    scheduler = make_scheduler("flow", "euler")
    drawn = replace(conditioning(1.0), condition=torch.full((B, C, H, H), 0.5))
    model = DrawnFlow()
    given = {"num_inference_steps": 8}
    without_prompt = replace(drawn, pooled_projections=conditioning(0.0).pooled_projections)
    guided = sample(model, scheduler, noise(), drawn, without_prompt, guidance=Guidance(3.0, 2.0), **given)
    assert model.batches == [3 * B] * 8
    expected = sample(network("flow"), scheduler, noise(), conditioning(3.0 + 2.0 * 0.5), **given)
    torch.testing.assert_close(guided, expected)
    only = sample(model, scheduler, noise(), drawn, guidance=Guidance(1.0, 2.0), **given)
    assert model.batches[8:] == [2 * B] * 8
    torch.testing.assert_close(only, sample(network("flow"), scheduler, noise(), conditioning(2.0), **given))


def test_steps_outside_the_interval_make_one_evaluation() -> None:
    model, scheduler = network("flow"), make_scheduler("flow", "euler")
    both = conditioning(1.0), conditioning(0.0)
    sample(model, scheduler, noise(), *both, num_inference_steps=10, guidance=Guidance(3.0, 1.0, 0.2, 0.7))
    assert model.batches == [B] * 2 + [2 * B] * 5 + [B] * 3
    none = sample(network("flow"), scheduler, noise(), *both, guidance=Guidance(3.0, 1.0, 0.5, 0.5))
    assert torch.equal(none, sample(network("flow"), scheduler, noise(), conditioning(1.0)))
    everywhere = sample(network("flow"), scheduler, noise(), *both, guidance=Guidance(3.0))
    assert not torch.equal(none, everywhere)


def test_network_time_of_flow_is_exact_for_every_sampler() -> None:
    for sampler in ("euler", "heun", "dpmpp", "unipc"):
        asked: list[float] = []
        model = network("flow")
        model.register_forward_pre_hook(lambda _, args, asked=asked: asked.append(args[1][0].item()))
        sample(model, make_scheduler("flow", sampler), noise(), conditioning(), num_inference_steps=4)
        assert asked == sorted(asked)
        assert 0 <= asked[0] < 1.1
        if sampler in ("euler", "unipc"):
            assert asked == pytest.approx([0, 249.75, 499.5, 749.25], abs=0.8)


def test_on_step_is_called_after_each_evaluation_and_may_cancel() -> None:
    scheduler = make_scheduler("flow", "heun")
    seen: list[tuple[int, int]] = []

    def on_step(i: int, n: int, latents: Tensor) -> None:
        assert latents.shape == (B, C, H, H)
        seen.append((i, n))
        if i == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(network("flow"), scheduler, noise(), conditioning(), num_inference_steps=4, on_step=on_step)
    assert seen == [(1, 7), (2, 7), (3, 7)]
    # The cancelled run did not change the scheduler that was passed in.
    first = sample(network("flow"), scheduler, noise(), conditioning())
    assert torch.equal(first, sample(network("flow"), scheduler, noise(), conditioning()))


def test_latents_stay_fp32_in_a_bf16_network() -> None:
    half = conditioning().to("cpu", torch.bfloat16)
    latents = sample(network("flow"), make_scheduler("flow", "euler"), noise(), half)
    assert latents.dtype == torch.float32
    assert (latents - exact("flow", noise())).abs().max() < 0.2


@pytest.mark.parametrize(("objective", "sampler"), [("flow", "ddim"), ("edm", "euler")])
def test_unknown_pairs_are_refused(objective: str, sampler: str) -> None:
    with pytest.raises(RecipeError, match="known: dpmpp, euler, heun, unipc"):
        make_scheduler(objective, sampler)
