"""Trains the decoder of a VAE to paint crisp pixels from the imperfect latents of a generator; the encoder stays.

Latents keep their meaning, so transformers trained with the VAE stay valid. An L1 loss alone paints the mean
of all pictures that a disturbed latent may stand for, which is blurred. Two losses ask for one of them instead:

- distances in the feature maps of the zoo's parser and CLIP, which change little when hair or lashes move a pixel;
- a discriminator of patches (hinge loss, spectral norm). It sees luminance only, so that it cannot ask for coloured
  glints; colours come from the other losses.

Shapes: B batch, H W image size.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from mmface.evaluate.measuring.metrics import feature_distance
from mmface.networks.components import load_clip, load_parser, load_vae
from mmface.zoo.drawn import Drawn
from mmface.zoo.fit import Plan, fit
from mmface.zoo.train_vae import disturb, pool, pool_of, reconstruction_loss

SIDE = 96  # of the crops
NOISE = 0.5  # largest standard deviation of the noise added to latents
AVERAGE = 0.999  # decay of the averaged weights that are saved
EDGES, FEATURES, CLIP_FEATURES, ADVERSARIAL = 0.3, 0.5, 0.25, 0.015  # weights of the losses beside L1
CORNER = 4  # pixels by which the losses' window is moved at most
ALONE = 200  # steps before the discriminator's loss counts
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


def discriminator() -> nn.Sequential:
    """Luminance [B, 1, H, W] to the score of each patch of 42 pixels: large for photographs and portraits."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((1, 32, 2), (32, 64, 2), (64, 96, 1), (96, 96, 1)):
        layers += [spectral_norm(nn.Conv2d(inputs, outputs, 4, stride, 1)), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(96, 1, 3, 1, 1)))


def luminance(pixels: Tensor) -> Tensor:
    """Pixels [B, 3, H, W] to [B, 1, H, W]."""
    return (pixels * pixels.new_tensor(LUMINANCE).view(3, 1, 1)).sum(1, keepdim=True)


class Features:
    """Feature maps of the zoo's frozen parser and of its CLIP."""

    def __init__(self) -> None:
        parser, processor = load_parser("zoo:parser")
        clip, _, clip_processor = load_clip("zoo:clip")
        self.parser: Any = parser
        self.clip: Any = clip.vision_model
        self.scales = [_scale(one) for one in (processor, clip_processor)]
        self.clip_side = int(clip.config.vision_config.image_size)

    def __call__(self, pixels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Maps [B, C_i, H_i, W_i] of both networks for pixels [B, 3, H, W] in [-1, 1]."""
        (mean, deviation), (clip_mean, clip_deviation) = self.scales
        pixels = (pixels + 1) / 2
        parsed = self.parser(pixel_values=(pixels - mean) / deviation, output_hidden_states=True)
        whole = F.interpolate(pixels, size=(self.clip_side,) * 2, mode="bilinear", antialias=True)
        seen = self.clip(pixel_values=(whole - clip_mean) / clip_deviation, output_hidden_states=True)
        maps = [_grid(tokens) for tokens in seen.hidden_states[1:]]
        return list(parsed.hidden_states), maps


def _scale(processor: Any) -> tuple[Tensor, Tensor]:
    return torch.tensor(processor.image_mean).view(3, 1, 1), torch.tensor(processor.image_std).view(3, 1, 1)


def _grid(tokens: Tensor) -> Tensor:
    """Tokens [B, 1 + N, C], the first of the class, to [B, C, N, 1]."""
    return tokens[:, 1:].transpose(1, 2)[..., None]


class Game:
    """The losses of decoder and discriminator on one batch.

    Args:
        vae: only its decoder is trained.
        features: of both networks.
    """

    def __init__(self, vae: Any, features: Features) -> None:
        self.vae, self.features = vae, features
        self.judge = discriminator()
        self.optimizer = torch.optim.AdamW(self.judge.parameters(), lr=3e-4, betas=(0.5, 0.99))
        self.average = copy.deepcopy(vae.decoder).requires_grad_(False)

    def loss(self, real: Tensor, step: int) -> Tensor:
        """The decoder's loss on a batch [B, 3, H, W] in [-1, 1], after a step of the discriminator."""
        self._follow(min(AVERAGE, step / (step + 10)))
        with torch.no_grad():
            latents = disturb(self.vae.encoder(real), NOISE)
        painted = self.vae.decoder(latents)
        # The networks look at every second pixel: from a random corner, or the decoder learns a pattern of their grid.
        y, x = torch.randint(0, CORNER, (2,)).tolist()
        real, painted = real[..., y:, x:], painted[..., y:, x:]
        with torch.no_grad():
            wanted = self.features(real)
        self._judge(luminance(real), luminance(painted.detach()))
        found = self.features(painted)
        parser, clip = (feature_distance(a, b).mean() for a, b in zip(found, wanted, strict=True))
        total = reconstruction_loss(painted, real, EDGES) + FEATURES * parser + CLIP_FEATURES * clip
        if step >= ALONE:
            total -= ADVERSARIAL * self.judge(luminance(painted)).mean()
        return total

    def _judge(self, real: Tensor, painted: Tensor) -> None:
        loss = F.relu(1 - self.judge(real)).mean() + F.relu(1 + self.judge(painted)).mean()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    @torch.no_grad()
    def _follow(self, decay: float) -> None:
        for mine, other in zip(self.average.parameters(), self.vae.decoder.parameters(), strict=True):
            mine.lerp_(other, 1 - decay)


def train(
    out: Path,
    *,
    vae: str = "zoo:vae",
    steps: int = 2500,
    portraits: int = 2000,
    seed: int = 1,
    batch: int = 8,
    cache: Path | None = None,
    data: Drawn | None = None,
) -> None:
    """Trains and saves the VAE with its new decoder in ``out``, in fp16.

    Args:
        vae: an AutoencoderDC, whose encoder is kept.
        data: photographs to train on, instead of drawn portraits and free photographs.

    Raises:
        ServiceError: a package of photographs could not be downloaded into ``cache``.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    pictures = (
        pool_of(data)
        if data is not None
        else pool(cache or Path.home() / ".cache" / "mmface" / "photos", portraits, seed)
    )
    network: Any = load_vae(vae).float()
    network.decoder.requires_grad_(True).train()
    game = Game(network, Features())
    batches = pictures.batches(batch, rng, SIDE)
    plan = Plan(steps, rate=3e-4, warm=100, beta2=0.99, weight_decay=0.0)
    fit("decoder", network.decoder, lambda step: game.loss(next(batches), step), plan)
    network.decoder.load_state_dict(game.average.state_dict())
    network.half().save_pretrained(out)
