"""Previews during training: a sheet of images painted from held-out drawings. Only the weights differ between sheets.

Shapes: R rows, C latent channels, H W latent size, P Q image size in pixels.
"""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmface.config import Recipe
from mmface.config.guidance import DRAWING_SCALES, PROMPT_SCALES, Guidance
from mmface.imaging.pixels import to_pil
from mmface.model import MODALITIES, MMFaceDiT
from mmface.networks.components import load_vae
from mmface.networks.precision import computes_in_bf16
from mmface.networks.vae import decode
from mmface.sampling import make_scheduler, sample
from mmface.train.rows.batches import pad_texts
from mmface.train.watch.held_out import FixedRows


class Previews:
    """Paints rows with the recipe's sampler, steps and guidance, from their first caption and their fixed noise.

    Latents, drawings and text come from the datasets, so only the decoder of the VAE is needed.

    Args:
        recipe: gives the components and the sampling.
        rows: the rows to paint; each is a row of the sheet.
        device: where to paint.

    Raises:
        InputError: the VAE cannot be loaded.
    """

    def __init__(self, recipe: Recipe, rows: FixedRows, device: torch.device) -> None:
        self.rows, self.sampling, self.device = rows, recipe.sampling, device
        self.scheduler = make_scheduler(recipe.objective.name, recipe.sampling.sampler)
        self.vae = load_vae(recipe.components.vae).to(device)

    def paint(self, transformer: MMFaceDiT) -> Tensor:
        """Normalised latents [2, R, C, H, W], painted from masks and from sketches.

        A collective if the weights are sharded: every rank calls it.
        """
        kinds, rows = np.divmod(np.arange(len(MODALITIES) * len(self.rows)), len(self.rows))
        latents = self._sample(transformer, rows, kinds, Guidance.of(self.sampling))
        return latents.reshape(len(MODALITIES), len(self.rows), *latents.shape[1:])

    def guidance_sheet(self, transformer: MMFaceDiT) -> bytes:
        """A PNG of the first row, painted from its mask with every pair of scales.

        The scales of the prompt grow from left to right, those of the drawing from top to bottom; the recipe's part of
        the steps is guided. A collective like :meth:`paint`.
        """
        one, own = np.zeros(1, np.int64), Guidance.of(self.sampling)
        grid = [
            [replace(own, guidance_scale=prompt, drawing_guidance_scale=drawing) for prompt in PROMPT_SCALES]
            for drawing in DRAWING_SCALES
        ]
        painted = [[self._sample(transformer, one, one, guidance) for guidance in line] for line in grid]
        lines = [torch.cat([self._decode(latents)[0] for latents in line], dim=2) for line in painted]
        return _png(torch.cat(lines, dim=1))

    def _sample(
        self, transformer: MMFaceDiT, rows: npt.NDArray[np.int64], kinds: npt.NDArray[np.int64], guidance: Guidance
    ) -> Tensor:
        conditioning = self.rows.conditioning(rows, kinds)
        texts, count = self.rows.data.texts, len(rows)
        sequence, mask = pad_texts([texts.empty_sequence] * count, texts.masked)
        negative = conditioning.with_text(sequence, torch.from_numpy(texts.empty_pooled).expand(count, -1), mask)
        return sample(
            transformer,
            self.scheduler,
            self.rows.noise[rows].to(self.device),
            conditioning.to(self.device),
            None if guidance.guidance_scale == 1 else negative.to(self.device),
            num_inference_steps=self.sampling.num_inference_steps,
            guidance=guidance,
            bf16=computes_in_bf16(self.sampling.precision, self.device),
        )

    def sheet(self, painted: Tensor) -> bytes:
        """A PNG of the result of :meth:`paint`.

        From left to right: photograph, mask, image painted from it, sketch, image painted from it.
        """
        photograph, mask, sketch = self._given
        by_mask, by_sketch = (self._decode(latents) for latents in painted)
        columns = torch.stack([photograph, mask, by_mask, sketch, by_sketch], dim=1)  # [R, 5, 3, P, Q]
        picture = columns.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)  #             [3, R·P, 5·Q]
        return _png(picture)

    @cached_property
    def _given(self) -> tuple[Tensor, ...]:
        drawings = (torch.from_numpy(np.array(latents)) for latents in self.rows.data.conditions)
        return tuple(self._decode(latents) for latents in (self.rows.latents, *drawings))

    def _decode(self, latents: Tensor) -> Tensor:
        """[R, C, H, W] → [R, 3, P, Q] on the CPU, one image at a time: decoders need much memory."""
        return torch.cat([decode(self.vae, one[None]).cpu() for one in latents])


def _png(picture: Tensor) -> bytes:
    """[3, H, W] in [-1, 1] as a PNG file."""
    sink = io.BytesIO()
    to_pil(picture[None])[0].save(sink, "PNG")
    return sink.getvalue()
