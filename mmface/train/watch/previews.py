"""A sheet of pictures painted from held-out drawings: the same every time but for the weights.

Shapes: R rows, C latent channels, H W latent size, P Q picture size in pixels.
"""

from __future__ import annotations

import io
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mmface.config import Recipe
from mmface.imaging.pixels import to_pil
from mmface.model import MODALITIES, MMFaceDiT
from mmface.networks.components import load_vae
from mmface.networks.precision import computes_in_bf16
from mmface.networks.vae import decode
from mmface.sampling import make_scheduler, sample
from mmface.train.rows.batches import pad_texts
from mmface.train.watch.held_out import FixedRows


class Previews:
    """Paints rows by the recipe's sampler, steps and guidance, under their first caption, with their fixed noise.

    Latents, drawings and text are the datasets', so the VAE is needed for decoding alone.

    Args:
        recipe: says the components and the sampling.
        rows: which; a line of the sheet each.
        device: where to paint.

    Raises:
        InputError: the VAE is not there.
    """

    def __init__(self, recipe: Recipe, rows: FixedRows, device: torch.device) -> None:
        self.rows, self.sampling, self.device = rows, recipe.sampling, device
        self.scheduler = make_scheduler(recipe.objective.name, recipe.sampling.sampler)
        self.vae = load_vae(recipe.components.vae).to(device)

    def paint(self, transformer: MMFaceDiT) -> Tensor:
        """Normalised latents [2, R, C, H, W], of masks and of sketches.

        Every rank calls it: weights that are spread over ranks need them all.
        """
        kinds, rows = np.divmod(np.arange(len(MODALITIES) * len(self.rows)), len(self.rows))
        conditioning = self.rows.conditioning(rows, kinds)
        texts, count = self.rows.data.texts, len(rows)
        sequence, mask = pad_texts([texts.empty_sequence] * count, texts.masked)
        negative = conditioning.with_text(sequence, torch.from_numpy(texts.empty_pooled).expand(count, -1), mask)
        guidance = self.sampling.guidance_scale
        latents = sample(
            transformer,
            self.scheduler,
            self.rows.noise[rows].to(self.device),
            conditioning.to(self.device),
            None if guidance == 1 else negative.to(self.device),
            num_inference_steps=self.sampling.num_inference_steps,
            guidance_scale=guidance,
            bf16=computes_in_bf16(self.sampling.precision, self.device),
        )
        return latents.reshape(len(MODALITIES), len(self.rows), *latents.shape[1:])

    def sheet(self, painted: Tensor) -> bytes:
        """PNG of what :meth:`paint` gave: photograph, mask, painted, sketch, painted from left to right."""
        photograph, mask, sketch = self._given
        by_mask, by_sketch = (self._decode(latents) for latents in painted)
        columns = torch.stack([photograph, mask, by_mask, sketch, by_sketch], dim=1)  # [R, 5, 3, P, Q]
        picture = columns.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)  #             [3, R·P, 5·Q]
        sink = io.BytesIO()
        to_pil(picture[None])[0].save(sink, "PNG")
        return sink.getvalue()

    @cached_property
    def _given(self) -> tuple[Tensor, ...]:
        drawings = (torch.from_numpy(np.array(latents)) for latents in self.rows.data.conditions)
        return tuple(self._decode(latents) for latents in (self.rows.latents, *drawings))

    def _decode(self, latents: Tensor) -> Tensor:
        """[R, C, H, W] → [R, 3, P, Q] on the CPU, one by one: decoders need much memory."""
        return torch.cat([decode(self.vae, one[None]).cpu() for one in latents])
