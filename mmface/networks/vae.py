"""Converts pixels to latents and back with any of the three autoencoder classes (§4); used by stages, training and
sampling alike.

Shapes: B batch, C latent channels, H W image size, f spatial factor, h = H/f, w = W/f.
"""

from __future__ import annotations

import torch
from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from torch import Tensor

Autoencoder = AutoencoderKL | AutoencoderDC | AutoencoderTiny


def normalisation(vae: Autoencoder, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [C] of ``normalised = (z - mean) / std``.

    They are ``latents_mean`` and ``latents_std`` if the config has them, else 0 and ``1 / scaling_factor``: the
    released models ignore the VAE's shift (§4).
    """
    config = dict(vae.config)
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        return torch.tensor(mean), torch.tensor(std)
    return torch.zeros(channels), torch.full((channels,), 1.0 / config["scaling_factor"])


def latent_channels(vae: Autoencoder) -> int:
    """C: the number of latent channels."""
    return int(vae.config["latent_channels"])


def spatial_factor(vae: Autoencoder) -> int:
    """f: image pixels per latent pixel, along each side."""
    if isinstance(vae, AutoencoderKL):
        stages = vae.config["block_out_channels"]
    else:
        stages = vae.config["encoder_block_out_channels"]
    return int(2 ** (len(stages) - 1))


@torch.no_grad()
def encode_moments(vae: Autoencoder, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """The raw posterior of images, not normalised.

    Args:
        vae: the autoencoder; runs in its own dtype.
        images: [B, 3, H, W] in [-1, 1].

    Returns:
        Mean [B, C, h, w] and log-variance of the same shape, both fp32. The log-variance is ``None`` for classes
        without a posterior (``AutoencoderDC``, ``AutoencoderTiny``).
    """
    images = images.to(vae.device, vae.dtype)
    if isinstance(vae, AutoencoderKL):
        posterior = vae.encode(images).latent_dist
        return posterior.mean.float(), posterior.logvar.float()
    encoded = vae.encode(images)
    return (encoded.latent if isinstance(vae, AutoencoderDC) else encoded.latents).float(), None


def normalise(vae: Autoencoder, z: Tensor) -> Tensor:
    """Raw latents [B, C, h, w] → normalised latents, which the transformer sees (§4)."""
    mean, std = _columns(vae, z)
    return (z - mean) / std


def denormalise(vae: Autoencoder, z: Tensor) -> Tensor:
    """The inverse of :func:`normalise`."""
    mean, std = _columns(vae, z)
    return z * std + mean


@torch.no_grad()
def decode(vae: Autoencoder, z: Tensor) -> Tensor:
    """Normalised latents [B, C, h, w] → images [B, 3, H, W] fp32 in [-1, 1]."""
    raw = denormalise(vae, z.float()).to(vae.device, vae.dtype)
    images: Tensor = vae.decode(raw, return_dict=False)[0]
    return images.float().clamp(-1, 1)


def _columns(vae: Autoencoder, z: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = normalisation(vae, z.shape[1])
    return mean.to(z)[:, None, None], std.to(z)[:, None, None]
