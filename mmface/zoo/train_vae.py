"""Trains the zoo VAE: its latent space is made for a generator that learns it within minutes.

Sharp reconstructions do not make a latent space easy to learn: the latents of a linear codec with 33 dB change abruptly
from patch to patch. The encoder is therefore trained from scratch, and three terms keep its latents smooth:

- The decoder gets latents with noise like that of a generator's output, so the encoder learns to tolerate it.
- Latents averaged 2x2 must decode to the image averaged 2x2 (scale equivariance, arXiv 2502.14831). This prevents
  channels that encode single pixels of a patch.
- Latents stay white: mean 0, covariance the identity. They need no normalisation (``scaling_factor`` 1).

Shapes: B batch, C latent channels, H W image size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
from torch import Tensor
from torch.nn import functional as F

from mmface.imaging.labels import mask_to_rgb
from mmface.zoo import photos
from mmface.zoo.drawn import TRAIN_SEED, Drawn, drawn
from mmface.zoo.fit import Plan, fit

CHANNELS, CROP = 16, 64
NOISE = 0.5  # largest standard deviation of the noise added to latents


def build() -> Any:
    """The untrained network with 2.4 M parameters: residual blocks at 1/2, 1/4 and 1/8 of the image side."""
    return AutoencoderDC(
        latent_channels=CHANNELS,
        encoder_block_out_channels=(0, 32, 64, 128),
        decoder_block_out_channels=(0, 40, 80, 160),
        encoder_layers_per_block=(0, 1, 1, 2),
        decoder_layers_per_block=(0, 1, 1, 2),
        encoder_qkv_multiscales=((),) * 4,
        decoder_qkv_multiscales=((),) * 4,
    )


@dataclass(frozen=True)
class Pool:
    """Images uint8 [N, S, S, 3] to crop, by kind, each with its share of a batch."""

    kinds: tuple[tuple[float, Tensor], ...]

    def batches(self, batch: int, rng: np.random.Generator, side: int = CROP) -> Iterator[Tensor]:
        """Endless batches [B, 3, side, side] in [-1, 1] of crops, some mirrored, relit or grey."""
        shares = [share for share, _ in self.kinds]
        while True:
            kinds = rng.choice(len(shares), batch, p=shares)
            crops = torch.stack([_crop(self.kinds[kind][1], rng, side) for kind in kinds])
            yield _relight(crops.permute(0, 3, 1, 2).float() / 127.5 - 1, rng)


def _crop(pictures: Tensor, rng: np.random.Generator, side: int) -> Tensor:
    picture = pictures[int(rng.integers(len(pictures)))]
    y, x = (int(v) for v in rng.integers(0, picture.shape[0] - side + 1, 2))
    crop = picture[y : y + side, x : x + side]
    return crop.flip(1) if rng.random() < 0.5 else crop


def _relight(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Changes contrast, tint and brightness of half of the crops; makes one in twelve grey, like sketches."""

    def uniform(low: float, high: float, channels: int = 1) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (len(x), channels, 1, 1))).float()

    relit = (x * uniform(0.7, 1.2) * uniform(0.88, 1.12, 3) + uniform(-0.2, 0.2)).clamp(-1, 1)
    x = torch.where(uniform(0, 1) < 0.5, relit, x)
    return torch.where(uniform(0, 1) < 1 / 12, x.mean(1, keepdim=True), x)


def pool(cache: Path, portraits: int, seed: int) -> Pool:
    """Drawn portraits, crops of free photographs, and masks in colour (the VAE also encodes conditions)."""
    data = drawn(portraits, TRAIN_SEED)
    masks = np.stack([mask_to_rgb(mask) for mask in data.masks[:200]])
    crops = photos.crops(photos.fetch(cache), per_photo=12, size=96, seed=seed)
    return Pool(tuple((share, torch.from_numpy(x)) for share, x in ((0.5, data.images), (0.42, crops), (0.08, masks))))


def pool_of(data: Drawn) -> Pool:
    """Photographs of a dataset, and their masks in colour."""
    masks = np.stack([mask_to_rgb(mask) for mask in data.masks[:200]])
    return Pool(((0.92, torch.from_numpy(data.images)), (0.08, torch.from_numpy(masks))))


def reconstruction_loss(painted: Tensor, real: Tensor, edges: float = 0.5) -> Tensor:
    """L1 of pixels, and ``edges`` times that of differences to the right and lower neighbours: sharp edges."""
    found = sum((painted.diff(dim=dim) - real.diff(dim=dim)).abs().mean() for dim in (2, 3))
    return (painted - real).abs().mean() + edges * found


def disturb(latents: Tensor, strength: float = NOISE) -> Tensor:
    """Adds noise like that of a generator's output: the 2x2 latents of a token share half of its variance.

    The standard deviation is random for each image, in 0 … ``strength``.
    """
    deviation = strength * torch.rand(len(latents), 1, 1, 1)
    fine, coarse = torch.randn_like(latents), torch.randn_like(latents[:, :, ::2, ::2])
    noise = (fine + F.interpolate(coarse, scale_factor=2)) / math.sqrt(2)
    return latents + deviation * noise


def whiteness_loss(latents: Tensor) -> Tensor:
    """The distance of latents [B, C, H, W] from mean 0 and identity covariance."""
    flat = latents.transpose(0, 1).flatten(1)
    return (flat.mean(1) ** 2).mean() + ((flat.cov() - torch.eye(CHANNELS)) ** 2).sum() / CHANNELS


def vae_loss(vae: Any, real: Tensor) -> Tensor:
    """Loss of a batch [B, 3, H, W] in [-1, 1]."""
    latents = vae.encoder(real)
    painted, small = vae.decoder(disturb(latents)), vae.decoder(F.avg_pool2d(latents, 2))
    equivariance = reconstruction_loss(small, F.avg_pool2d(real, 2))
    return reconstruction_loss(painted, real) + 0.25 * equivariance + 0.02 * whiteness_loss(latents)


def train(
    out: Path,
    *,
    steps: int = 9000,
    portraits: int = 1000,
    seed: int = 0,
    batch: int = 12,
    cache: Path | None = None,
    data: Drawn | None = None,
) -> None:
    """Trains and saves fp16 weights in ``out``.

    Args:
        data: photographs to train on, instead of drawn portraits and free photographs.

    Raises:
        ServiceError: a package of photographs could not be downloaded into ``cache``.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    pictures = pool_of(data) if data else pool(cache or Path.home() / ".cache" / "mmface" / "photos", portraits, seed)
    vae = build()
    batches = pictures.batches(batch, rng)
    fit("vae", vae, lambda _: vae_loss(vae, next(batches)), Plan(steps, rate=1.5e-3, warm=100, beta2=0.99))
    vae.half().save_pretrained(out)
