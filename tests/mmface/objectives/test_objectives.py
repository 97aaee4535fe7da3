"""Objectives against closed forms of times, paths, weights and losses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from torch import Tensor, nn

from mmface.errors import RecipeError
from mmface.model import Conditioning
from mmface.objectives import DDPM, RectifiedFlow, make_objective
from mmface.objectives.flow import network_time

B, C, H = 4, 3, 4


class Answer(nn.Module):
    """A network that returns a fixed answer and records its inputs."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(
        self, hidden_states, timestep, sequence, pooled, modality, mask=None, return_dict=True
    ) -> tuple[Tensor]:
        self.asked = hidden_states, timestep
        return (self.answer,)


@pytest.fixture
def latents() -> Tensor:
    return torch.randn(B, C, H, H, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def noise() -> Tensor:
    return torch.randn(B, C, H, H, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def conditioning() -> Conditioning:
    return Conditioning(torch.ones(B, C, H, H), torch.zeros(B, 2, 5), torch.zeros(B, 5), torch.zeros(B).long())


def test_flow_runs_straight_from_noise_to_data(latents, noise) -> None:
    flow = RectifiedFlow()
    torch.testing.assert_close(flow.add_noise(latents, noise, torch.zeros(B)), noise, rtol=0, atol=0)
    torch.testing.assert_close(flow.add_noise(latents, noise, torch.ones(B)), latents, rtol=0, atol=0)
    quarter = flow.add_noise(latents, noise, torch.full((B,), 0.25))
    torch.testing.assert_close(quarter, 0.75 * noise + 0.25 * latents)


def test_perfect_velocity_has_no_loss(latents, noise, conditioning) -> None:
    t = torch.tensor([0.0, 0.25, 0.5, 1.0])
    network = Answer(latents - noise)
    scored = RectifiedFlow()(network, latents, noise, t, conditioning)
    assert torch.equal(scored.loss, torch.zeros(B))
    hidden_states, timestep = network.asked
    assert torch.equal(timestep, torch.tensor([0.0, 249.75, 499.5, 999.0]))
    assert torch.equal(hidden_states[:, C:], conditioning.condition)


def test_flow_time_stays_fp32_when_latents_do_not(latents, noise, conditioning) -> None:
    network = Answer((latents - noise).bfloat16())
    t = torch.full((B,), 0.123456789)
    scored = RectifiedFlow()(network, latents.bfloat16(), noise.bfloat16(), t, conditioning)
    assert torch.equal(network.asked[1], 999 * t)
    assert scored.loss.dtype == torch.float32
    assert network_time(t.double()).dtype == torch.float32


def test_logit_normal_quantiles() -> None:
    u = torch.tensor([0.025, 0.25, 0.5, 0.75, 0.975], dtype=torch.float64)
    expected = torch.sigmoid(torch.from_numpy(norm.ppf(u.numpy())))
    torch.testing.assert_close(RectifiedFlow("logit_normal").timesteps(u).double(), expected, rtol=1e-6, atol=1e-7)
    assert torch.equal(RectifiedFlow("uniform").timesteps(u), u.float())


@given(st.floats(min_value=0, max_value=1, exclude_max=True, width=32))
@settings(max_examples=50)
def test_times_stay_in_range(u: float) -> None:
    drawn = torch.tensor([u])
    for density in ("uniform", "logit_normal"):
        assert 0 <= RectifiedFlow(density).timesteps(drawn).item() <= 1
    step = DDPM().timesteps(drawn)
    assert step.dtype == torch.int64
    assert step.item() == min(int(u * 1000), 999)


def schedule() -> Tensor:
    """The cumulative alphas of SD 2.1, by the formula."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)


def test_min_snr_weights_against_the_formula() -> None:
    t = torch.arange(1000)
    snr = schedule() / (1 - schedule())
    weights = DDPM(min_snr_gamma=5.0).weights(t)
    torch.testing.assert_close(weights.double(), torch.clamp(snr, max=5.0) / snr, rtol=2e-4, atol=0)
    assert torch.equal(weights[snr < 4.9], torch.ones(int((snr < 4.9).sum())))


def test_ddpm_noising_keeps_the_variance_and_ends_in_noise(latents, noise) -> None:
    t = torch.tensor([0, 300, 600, 999])
    alpha = schedule()[t].float()[:, None, None, None]
    expected = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    torch.testing.assert_close(DDPM().add_noise(latents, noise, t), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gamma", [5.0, None])
def test_ddpm_loss_is_the_weighted_error(latents, noise, conditioning, gamma) -> None:
    t = torch.tensor([0, 300, 600, 999])
    ddpm = DDPM(gamma)
    network = Answer(noise)
    assert not ddpm(network, latents, noise, t, conditioning).loss.any()
    assert torch.equal(network.asked[1], t)
    off = ddpm(Answer(noise + 2), latents, noise, t, conditioning)
    torch.testing.assert_close(off.mse, torch.full((B,), 4.0))
    torch.testing.assert_close(off.loss, off.mse if gamma is None else off.mse * ddpm.weights(t))


def test_objectives_are_built_from_recipe_values() -> None:
    assert isinstance(make_objective("flow", timestep_sampling="uniform"), RectifiedFlow)
    assert make_objective("ddpm", min_snr_gamma=None).min_snr_gamma is None
    with pytest.raises(RecipeError, match="known: flow, ddpm"):
        make_objective("vdm")
    with pytest.raises(RecipeError, match="known: uniform, logit_normal"):
        make_objective("flow", timestep_sampling="cosine")
