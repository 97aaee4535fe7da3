"""The zoo VAE: its latents are white and its reconstructions close."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmface.data.portraits import draw
from mmface.networks.components import load_vae
from mmface.networks.places import resolve
from mmface.networks.vae import decode, encode_moments, normalise, spatial_factor
from mmface.zoo import photos, train_vae
from mmface.zoo.drawn import HELD_OUT_SEED


@pytest.fixture(scope="module")
def portraits() -> torch.Tensor:
    """Held-out portraits [16, 3, 128, 128] in [-1, 1]."""
    pictures = np.stack([draw(HELD_OUT_SEED + seed, 128).image for seed in range(16)])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.fixture(scope="module")
def vae() -> Any:
    """The shipped network."""
    return load_vae("zoo:vae")


def test_the_vae_is_small_and_has_the_expected_latents(vae: Any) -> None:
    assert spatial_factor(vae) == 8
    assert 16 <= vae.config["latent_channels"] <= 32
    assert vae.config["scaling_factor"] == 1
    assert sum(path.stat().st_size for path in Path(resolve("zoo:vae")).iterdir()) < 7e6


def test_latents_are_white_and_portraits_are_reconstructed(vae: Any, portraits: torch.Tensor) -> None:
    latents = normalise(vae, encode_moments(vae, portraits)[0])
    assert latents.mean((0, 2, 3)).abs().max() < 0.4
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 0.3
    error = (decode(vae, latents).clamp(-1, 1) - portraits).square().mean((1, 2, 3))
    assert (10 * torch.log10(4 / error)).mean() >= 28


def test_the_whiteness_loss_is_zero_only_for_white_latents() -> None:
    torch.manual_seed(0)
    white = torch.randn(64, train_vae.CHANNELS, 32, 32)
    assert train_vae.whiteness_loss(white) < 0.001
    assert train_vae.whiteness_loss(white + 1) == pytest.approx(1, abs=0.05)
    assert train_vae.whiteness_loss(2 * white) == pytest.approx(9, abs=0.2)


def test_crops_are_deterministic_and_leave_out_flat_images(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    Image.new("RGB", (200, 150), (90, 90, 90)).save(tmp_path / "flat.png")
    paths = [tmp_path / "flat.png", tmp_path / "noise.png"]
    first, second = (photos.crops(paths, per_photo=3, size=48, seed=1) for _ in range(2))
    assert first.shape == (3, 48, 48, 3)
    assert np.array_equal(first, second)
