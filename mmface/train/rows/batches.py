"""Training batches of precomputed latents and text; each sample is a function of (seed, phase, step, slot) only (§5).

A slot is a position in the global batch. Samples do not depend on the rank, so any number of workers sees the same
global batches, and a resumed run sees the same batches as an uninterrupted one.

Shapes: B slots, C latent channels, H W latent size, L text tokens, D text width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmface.model import Conditioning
from mmface.train.rows.balance import Mixture
from mmface.train.rows.mapped import Floats
from mmface.train.rows.sets import TrainingSet
from mmface.train.rows.streams import SAMPLE, generator, order

LENGTH_MULTIPLE = 8


@dataclass(frozen=True)
class Batch:
    """Some slots of one global batch.

    Attributes:
        slots: [B] positions in the global batch.
        ids: row ids.
        latents: [B, C, H, W] normalised clean latents, sampled from the posterior.
        noise: [B, C, H, W] standard normal.
        uniform: [B] in [0, 1); the objective converts it to timesteps.
        conditioning: condition, text and modality; conditions and texts of some samples are dropped.
    """

    slots: Tensor
    ids: tuple[str, ...]
    latents: Tensor
    noise: Tensor
    uniform: Tensor
    conditioning: Conditioning

    def to(self, device: torch.device) -> Batch:
        """Moves all tensors except the slots to ``device``."""
        return Batch(
            self.slots,
            self.ids,
            self.latents.to(device, non_blocking=True),
            self.noise.to(device, non_blocking=True),
            self.uniform.to(device, non_blocking=True),
            self.conditioning.to(device),
        )

    def split(self, count: int) -> list[Batch]:
        """Splits into ``count`` micro-batches whose sizes differ by at most one.

        If padding is masked, groups captions of similar length and cuts the padding that no caption of a group needs.
        """
        mask = self.conditioning.encoder_attention_mask
        if count == 1:
            return [self]
        order = torch.arange(len(self.slots)) if mask is None else mask.sum(1).argsort(stable=True)
        return [self._part(places) for places in order.tensor_split(count)]

    def _part(self, places: Tensor) -> Batch:
        conditioning = self.conditioning.part(places)
        mask = conditioning.encoder_attention_mask
        if mask is not None:
            text = conditioning.encoder_hidden_states
            needed = padded_length(int(mask.sum(1).max()))
            conditioning = conditioning.with_text(text[:, :needed], conditioning.pooled_projections, mask[:, :needed])
        return Batch(
            self.slots[places],
            tuple(self.ids[place] for place in places.tolist()),
            self.latents[places],
            self.noise[places],
            self.uniform[places],
            conditioning,
        )


@dataclass(frozen=True)
class Draws:
    """Draws the global batches of a phase.

    Attributes:
        seed: the recipe's.
        phase: index of the phase.
        batch_size: number of slots in the global batch.
        condition_dropout, text_dropout: probabilities, drawn independently.
        mixture: the balance of the collections; without it every row occurs equally often.
    """

    seed: int
    phase: int
    batch_size: int
    condition_dropout: float
    text_dropout: float
    mixture: Mixture | None = None

    def rows(self, data_rows: int, step: int, slots: Sequence[int]) -> list[int]:
        """Row number for each slot. Each epoch has its own order; a batch may span two epochs."""
        draws = [step * self.batch_size + slot for slot in slots]
        if self.mixture is not None:
            return [self.mixture.row(self.seed, self.phase, draw) for draw in draws]
        places = (divmod(draw, data_rows) for draw in draws)
        return [int(order(self.seed, self.phase, epoch, data_rows)[place]) for epoch, place in places]

    def batch(self, data: TrainingSet, step: int, slots: Sequence[int]) -> Batch:
        """The given slots of the global batch of ``step``."""
        rows = self.rows(len(data), step, slots)
        drawn = [self._slot(data, row, step, slot) for row, slot in zip(rows, slots, strict=True)]
        sequence, mask = pad_texts([one.pop("sequence") for one in drawn], data.texts.masked)
        columns = {key: torch.from_numpy(np.stack([one[key] for one in drawn])) for key in drawn[0]}
        return Batch(
            slots=torch.tensor(list(slots)),
            ids=tuple(data.ids[row].decode() for row in rows),
            latents=columns["latents"],
            noise=columns["noise"],
            uniform=columns["uniform"],
            conditioning=Conditioning(columns["condition"], sequence, columns["pooled"], columns["modality"], mask),
        )

    def _slot(self, data: TrainingSet, row: int, step: int, slot: int) -> dict[str, npt.NDArray[Any]]:
        random = generator((self.seed, SAMPLE), (0, slot, step, self.phase))
        uniform, modality, caption, keep_condition, keep_text = random.random(5, dtype=np.float32)
        latents = data.image[row]
        if data.image_std is not None:
            latents = latents + data.image_std[row] * random.standard_normal(latents.shape, dtype=np.float32)
        drawing = int(modality < 0.5)
        condition = data.conditions[drawing][row]
        if keep_condition < self.condition_dropout:
            condition = np.zeros_like(condition)
        sequence, pooled = data.texts.empty_sequence, data.texts.empty_pooled
        if keep_text >= self.text_dropout:
            sequence, pooled = data.texts.read(row, int(caption * data.texts.captions))
        return {
            "latents": latents,
            "noise": random.standard_normal(latents.shape, dtype=np.float32),
            "uniform": uniform,
            "modality": np.int64(drawing),
            "condition": condition,
            "sequence": sequence,
            "pooled": pooled,
        }


def pad_texts(sequences: Sequence[Floats], masked: bool) -> tuple[Tensor, Tensor | None]:
    """Stacks [L, D] texts to [B, L, D]; if ``masked``, pads texts of different length and returns their mask [B, L]."""
    if not masked:
        return torch.from_numpy(np.stack(sequences)), None
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    longest = padded_length(int(lengths.max()))
    padded = torch.zeros(len(sequences), longest, sequences[0].shape[1])
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = torch.from_numpy(np.array(sequence))
    return padded, torch.arange(longest) < lengths[:, None]


def padded_length(longest: int) -> int:
    """Rounds a length up, so that few lengths occur and kernels and memory can be reused."""
    return math.ceil(longest / LENGTH_MULTIPLE) * LENGTH_MULTIPLE
