"""Train the zoo VAE: a latent space that starts in closed form, and a decoder that learns to read it.

A generator that trains for minutes learns little of a latent space whose channels all carry noise-like detail. So the
encoder starts as the linear map that keeps most of an 8x8 patch (its principal components), with two twists:

- a component of deviation s is scaled to deviation ~ s^ALPHA, between whitening (0) and pixels (1), so that colours
  and slopes stand above fine detail and a generator finds coarse things first, as it does in pixels;
- a Hadamard rotation then spreads all components over all channels, so that each channel has unit variance all the
  same.

The scale lives in the encoder's last convolution, so the latents need no normalisation (``scaling_factor`` 1). The
decoder is a convolutional network trained on noisy latents, which is what generators make; late in training the
encoder follows it a little.

Shapes: B batch, C latent channels, H W image size, K features of the encoder's last convolution.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC, DCDownBlock2d
from scipy.linalg import hadamard
from torch import Tensor, nn
from torch.nn import functional as F

from mmface.data.labels import mask_to_rgb
from mmface.zoo import photos
from mmface.zoo.drawn import TRAIN_SEED, drawn

CHANNELS, FACTOR, CROP = 16, 8, 64
ALPHA = 0.5
STEPS_PER_MINUTE = 100  # about what one core does


@dataclass(frozen=True)
class Schedule:
    """How the network is trained; the learning rate warms up, holds and falls to zero along a cosine."""

    steps: int
    batch: int = 12
    lr: float = 2e-3
    warm: int = 40
    hold: float = 0.3  # share of the steps before the rate falls and the encoder joins in
    encoder: float = 0.15  # the encoder's rate over the decoder's
    noise: float = 0.7  # highest deviation of the noise added to latents

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        fall = max(0.0, (step / self.steps - self.hold) / (1 - self.hold))
        return self.lr * min(1.0, (step + 1) / self.warm) * (0.5 + 0.5 * math.cos(math.pi * fall))


def build() -> Any:
    """The untrained network: an encoder that passes everything on linearly, a decoder of calm residual blocks.

    The encoder's convolutions start as orthogonal maps of single pixels and its residual blocks as nothing at all, so
    that its last features are a linear, nearly lossless image of the 8x8 patches.
    """
    vae: Any = AutoencoderDC(
        latent_channels=CHANNELS,
        encoder_block_out_channels=(0, 32, 64, 128),
        decoder_block_out_channels=(0, 40, 80, 160),
        encoder_layers_per_block=(0, 1, 1, 1),
        decoder_layers_per_block=(0, 1, 1, 2),
        encoder_qkv_multiscales=((),) * 4,
        decoder_qkv_multiscales=((),) * 4,
        encoder_out_shortcut=False,
        decoder_in_shortcut=False,
    )
    for name, parameter in vae.named_parameters():
        if name.endswith("norm.weight"):
            nn.init.constant_(parameter, 0.0 if name.startswith("encoder") else 0.2)
    for module in vae.encoder.modules():
        if isinstance(module, DCDownBlock2d):
            for parameter in module.conv.parameters():
                nn.init.zeros_(parameter)
            centre = torch.empty(module.conv.weight.shape[:2])
            module.conv.weight.data[:, :, 1, 1] = nn.init.orthogonal_(centre)
    return vae


def features(vae: Any, images: Tensor) -> Tensor:
    """What the encoder's last convolution sees: [B, K, H/8, W/8] of images [B, 3, H, W]."""
    hidden: Tensor = vae.encoder.conv_in(images)
    for block in vae.encoder.down_blocks:
        hidden = block(hidden)
    return hidden


def target(images: Tensor) -> Tensor:
    """The latents wanted of images [B, 3, H, W]: [B, H/8, W/8, C], of mean 0 and variance 1 in every channel."""
    patches = F.pixel_unshuffle(images, FACTOR).permute(0, 2, 3, 1)
    centred = patches - patches.mean((0, 1, 2))
    flat = centred.reshape(-1, centred.shape[-1])
    variance, axes = torch.linalg.eigh(flat.T @ flat / len(flat))
    deviation = variance.flip(0)[:CHANNELS].sqrt()
    scores = centred @ axes.flip(1)[:, :CHANNELS] * deviation ** (ALPHA - 1)
    rotated: Tensor = scores @ torch.from_numpy(hadamard(CHANNELS)).float()
    return rotated / (rotated**2).mean().sqrt()


@torch.no_grad()
def fit_encoder(vae: Any, images: Tensor) -> None:
    """Set the encoder's last convolution to the ridge regression of :func:`target` on :func:`features`."""
    hidden = torch.cat([features(vae, part) for part in torch.split(images, 64)])
    seen = F.unfold(hidden, 3, padding=1).transpose(1, 2).flatten(0, 1)
    seen = torch.cat([seen, torch.ones(len(seen), 1)], 1)
    gram = (seen.T @ seen).double()
    gram.diagonal().add_(1e-6 * gram.diagonal().mean())
    solution = torch.linalg.solve(gram, (seen.T @ target(images).flatten(0, 2)).double()).float()
    last = vae.encoder.conv_out
    last.weight.copy_(solution[:-1].T.reshape(last.weight.shape))
    last.bias.copy_(solution[-1])


@dataclass(frozen=True)
class Pool:
    """Pictures uint8 [N, S, S, 3] to cut crops from, with the share of a batch that each kind makes up."""

    kinds: tuple[tuple[float, Tensor], ...]

    def batches(self, batch: int, rng: np.random.Generator) -> Iterator[Tensor]:
        """Endless batches [B, 3, CROP, CROP] in [-1, 1]: crops, some mirrored, some relit, some grey."""
        shares = [share for share, _ in self.kinds]
        while True:
            kinds = rng.choice(len(shares), batch, p=shares)
            crops = torch.stack([_crop(self.kinds[kind][1], rng) for kind in kinds])
            yield _relight(crops.permute(0, 3, 1, 2).float() / 127.5 - 1, rng)


def _crop(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    picture = pictures[int(rng.integers(len(pictures)))]
    y, x = (int(v) for v in rng.integers(0, picture.shape[0] - CROP + 1, 2))
    crop = picture[y : y + CROP, x : x + CROP]
    return crop.flip(1) if rng.random() < 0.5 else crop


def _relight(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Half of the crops with other contrast, tint and brightness; one in twelve grey, as sketches are."""

    def uniform(low: float, high: float, channels: int = 1) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (len(x), channels, 1, 1))).float()

    relit = (x * uniform(0.7, 1.2) * uniform(0.88, 1.12, 3) + uniform(-0.2, 0.2)).clamp(-1, 1)
    x = torch.where(uniform(0, 1) < 0.5, relit, x)
    return torch.where(uniform(0, 1) < 1 / 12, x.mean(1, keepdim=True), x)


def pool(cache: Path, portraits: int, seed: int) -> Pool:
    """Drawn portraits, crops of free photographs, and masks in their colours (conditions are encoded too)."""
    data = drawn(portraits, TRAIN_SEED)
    masks = np.stack([mask_to_rgb(mask) for mask in data.masks[:200]])
    crops = photos.crops(photos.fetch(cache), per_photo=12, size=96, seed=seed)
    return Pool(tuple((share, torch.from_numpy(x)) for share, x in ((0.5, data.images), (0.42, crops), (0.08, masks))))


def reconstruction_loss(painted: Tensor, real: Tensor) -> Tensor:
    """L1 of pixels, and of their differences with the right and lower neighbour, which keeps edges sharp."""
    edges = sum((painted.diff(dim=dim) - real.diff(dim=dim)).abs().mean() for dim in (2, 3))
    return (painted - real).abs().mean() + 0.5 * edges


def disturb(latents: Tensor, highest: float) -> Tensor:
    """Latents with noise as generators leave it: half of its variance is shared by the 2x2 latents of a token.

    Each picture has its own deviation in 0 … ``highest``, mostly a small one.
    """
    deviation = highest * torch.rand(len(latents), 1, 1, 1) ** 2
    fine, coarse = torch.randn_like(latents), torch.randn_like(latents[:, :, ::2, ::2])
    noise = (fine + F.interpolate(coarse, scale_factor=2)) / math.sqrt(2)
    return latents + deviation * noise


def whiteness_loss(latents: Tensor) -> Tensor:
    """How far channels are from mean 0 and variance 1."""
    mean, variance = latents.mean((0, 2, 3)), latents.var((0, 2, 3))
    return (mean**2).mean() + ((variance - 1) ** 2).mean()


def optimise(vae: Any, batches: Iterator[Tensor], schedule: Schedule) -> Any:
    """Train ``vae`` in place and return the moving average of its weights."""
    average = copy.deepcopy(vae)
    groups = [{"params": list(part.parameters()), "lr": 0.0} for part in (vae.decoder, vae.encoder)]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=1e-4)
    for step in range(schedule.steps):
        real = next(batches)
        joined = step >= schedule.hold * schedule.steps
        with torch.set_grad_enabled(joined):
            latents = vae.encoder(real)
        painted = vae.decoder(disturb(latents, schedule.noise))
        loss: Any = reconstruction_loss(painted, real) + 0.02 * whiteness_loss(latents)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        for group, share in zip(optimizer.param_groups, (1.0, schedule.encoder * joined), strict=True):
            group["lr"] = share * schedule.rate(step)
        optimizer.step()
        keep = min(0.995, step / (step + 20))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(vae.parameters()), 1 - keep)
        if step % 50 == 0:
            print(f"vae step {step} of {schedule.steps} loss {loss.item():.4f}", flush=True)
    return average


@torch.no_grad()
def whiten(vae: Any, images: Tensor) -> None:
    """Give the latents of ``images`` unit variance in every channel, without changing what is decoded."""
    deviation = vae.encoder(images).std((0, 2, 3))
    last, first = vae.encoder.conv_out, vae.decoder.conv_in
    last.weight.div_(deviation[:, None, None, None])
    last.bias.div_(deviation)
    first.weight.mul_(deviation[:, None, None])


def train(out: Path, *, minutes: float = 15, portraits: int = 1000, seed: int = 0, cache: Path | None = None) -> None:
    """Train for as many steps as ``minutes`` stand for, and save fp16 weights in ``out``.

    The result depends on ``minutes``, ``portraits`` and ``seed`` alone, not on the machine's speed.

    Raises:
        ServiceError: a package of photographs could not be fetched into ``cache``.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    pictures = pool(cache or Path.home() / ".cache" / "mmface" / "photos", portraits, seed)
    vae = build()
    sample = next(pictures.batches(1000, rng))
    fit_encoder(vae, sample)
    schedule = Schedule(steps=round(minutes * STEPS_PER_MINUTE))
    average = optimise(vae, pictures.batches(schedule.batch, rng), schedule)
    whiten(average, sample)
    average.half().save_pretrained(out)
