"""Converting pixels to latents and back with each autoencoder class."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmface.networks.vae import (
    decode,
    denormalise,
    encode_moments,
    latent_channels,
    normalisation,
    normalise,
    spatial_factor,
)
from tests import tiny

EXPECTED = {
    "kl": ([0.0] * 4, [1 / 0.18215] * 4),
    "kl_whitened": ([0.1, -0.2, 0.3, 0.0], [0.5, 1.0, 2.0, 3.0]),
    "dc": ([0.0] * 4, [1 / 0.7] * 4),
    "dc_whitened": ([0.5, 0.0, -0.5, 1.0], [2.0, 1.0, 0.5, 0.25]),
    "tiny": ([0.0] * 4, [1.0] * 4),
}


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 16, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("name", tiny.VAES)
def test_shapes_and_moments(name: str, images: torch.Tensor) -> None:
    vae = tiny.VAES[name]()
    mean, logvar = encode_moments(vae, images)
    assert mean.shape == (2, latent_channels(vae), 16 // spatial_factor(vae), 32 // spatial_factor(vae))
    if name.startswith("kl"):
        torch.testing.assert_close(logvar, vae.encode(images).latent_dist.logvar)
    else:
        assert logvar is None
    decoded = decode(vae, normalise(vae, mean))
    assert decoded.shape == images.shape
    assert decoded.abs().max() <= 1


@pytest.mark.parametrize("name", tiny.VAES)
def test_normalisation(name: str, images: torch.Tensor) -> None:
    vae = tiny.VAES[name]()
    mean, std = normalisation(vae, 4)
    torch.testing.assert_close(mean, torch.tensor(EXPECTED[name][0]))
    torch.testing.assert_close(std, torch.tensor(EXPECTED[name][1]))
    raw, _ = encode_moments(vae, images)
    torch.testing.assert_close(denormalise(vae, normalise(vae, raw)), raw)
    torch.testing.assert_close(normalise(vae, raw)[:, 1], (raw[:, 1] - mean[1]) / std[1])


def test_released_vae_is_scaled_and_not_shifted(images: torch.Tensor) -> None:
    vae = tiny.kl(scaling_factor=0.3611, shift_factor=0.1159)
    raw, _ = encode_moments(vae, images)
    torch.testing.assert_close(normalise(vae, raw), raw * 0.3611)


@pytest.mark.parametrize("name", ["kl_whitened", "dc_whitened"])
def test_whitening_survives_saving(tmp_path: Path, name: str) -> None:
    vae = tiny.VAES[name]()
    vae.save_pretrained(tmp_path)
    again = type(vae).from_pretrained(tmp_path)
    for saved, given in zip(normalisation(again, 4), normalisation(vae, 4), strict=True):
        assert torch.equal(saved, given)
