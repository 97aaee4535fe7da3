"""What the training loop eats: precomputed latents and text, drawn by (seed, phase, step, slot) and nothing else (§5).

A slot is a place in the global batch. Which rank fills it does not matter, so any number of workers sees the same
batches and a resumed run sees those of the run that was never interrupted.

Shapes: R rows, B slots, C latent channels, H W latent size, L text tokens, D text width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmface.dataset import Dataset
from mmface.errors import DatasetError
from mmface.model import Conditioning
from mmface.train.balance import Mixture
from mmface.train.mapped import Floats, Rows, floats, mapped
from mmface.train.streams import SAMPLE, generator, order
from mmface.train.texts import Texts, load_texts

LENGTH_MULTIPLE = 8


@dataclass(frozen=True)
class TrainingSet:
    """Every training row, or some held-out ones, as flat arrays, memory-mapped when loaded from datasets.

    Attributes:
        ids: [R] row ids, sorted, as bytes.
        image: [R, C, H, W] normalised posterior mean of the photograph.
        image_std: [R, C, H, W] posterior deviation in normalised units; None for a VAE without a posterior.
        conditions: normalised latents of mask and sketch, [R, C, H, W] each, in the order of ``MODALITIES``.
        texts: encoded captions of the rows.
        sources: [R] collection of each row; empty where nobody balances them.
    """

    ids: npt.NDArray[np.bytes_]
    image: Floats
    image_std: Floats | None
    conditions: tuple[Floats, Floats]
    texts: Texts
    sources: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, rows: slice) -> TrainingSet:
        """Some of the rows, as views of the same arrays."""
        mask, sketch = self.conditions
        return TrainingSet(
            ids=self.ids[rows],
            image=self.image[rows],
            image_std=None if self.image_std is None else self.image_std[rows],
            conditions=(mask[rows], sketch[rows]),
            texts=replace(self.texts, place=self.texts.place[rows]),
            sources=self.sources[rows],
        )

    @property
    def latent_channels(self) -> int:
        """C."""
        return int(self.image.shape[1])

    @property
    def text_width(self) -> int:
        """D."""
        return int(self.texts.pooled.shape[-1])


@dataclass(frozen=True)
class Batch:
    """Some slots of one global batch.

    Attributes:
        slots: [B] their places in the global batch.
        ids: their row ids.
        latents: [B, C, H, W] normalised clean latents, sampled from the posterior.
        noise: [B, C, H, W] standard normal.
        uniform: [B] in [0, 1); the objective turns it into timesteps.
        conditioning: drawing, text and modality, some of them dropped.
    """

    slots: Tensor
    ids: tuple[str, ...]
    latents: Tensor
    noise: Tensor
    uniform: Tensor
    conditioning: Conditioning

    def to(self, device: torch.device) -> Batch:
        """Moves every tensor but the slots."""
        return Batch(
            self.slots,
            self.ids,
            self.latents.to(device, non_blocking=True),
            self.noise.to(device, non_blocking=True),
            self.uniform.to(device, non_blocking=True),
            self.conditioning.to(device),
        )


@dataclass(frozen=True)
class Draws:
    """The law by which a phase draws its global batches.

    Attributes:
        seed: of the recipe.
        phase: index of the phase.
        batch_size: slots of the global batch.
        condition_dropout, text_dropout: probabilities, drawn independently.
        mixture: how collections share the slots; without it every row of the data comes equally often.
    """

    seed: int
    phase: int
    batch_size: int
    condition_dropout: float
    text_dropout: float
    mixture: Mixture | None = None

    def rows(self, data_rows: int, step: int, slots: Sequence[int]) -> list[int]:
        """Row of each slot: epoch after epoch, each in its own order, batches running across the border."""
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


def load_training_set(latents: Dataset, text: Dataset) -> TrainingSet:
    """The training rows alone; see :func:`load_sets`."""
    return load_sets(latents, text, 0)[0]


def load_sets(latents: Dataset, text: Dataset, held_out_rows: int) -> tuple[TrainingSet, TrainingSet | None]:
    """Reads the rows that both datasets have, ordered by id, into memory-mapped arrays, in one pass.

    Args:
        latents: a ``latents-<px>`` dataset.
        text: the ``text`` dataset.
        held_out_rows: how many rows of the split ``test`` to read, the first by id.

    Returns:
        All training rows; the held-out ones, or ``None`` if there are none or none were asked for.

    Raises:
        DatasetError: no common training row, or a row whose bytes do not have the manifest's shape.
    """
    table = latents.table(["id", "split", "source"]).to_pydict()
    spoken = set(text.table(["id"]).column("id").to_pylist())
    common = [(key, part) for key, part in zip(table["id"], table["split"], strict=True) if key in spoken]
    train = [key for key, part in common if part == "train"]
    if not train:
        raise DatasetError(f"{latents.uri} and {text.uri} share no training row", field="inputs")
    held_out = sorted(key for key, part in common if part == "test")[:held_out_rows]
    source = dict(zip(table["id"], table["source"], strict=True))
    data = _load(latents, text, Rows(train, held_out), source)
    return data.part(slice(len(train))), data.part(slice(len(train), None)) if held_out else None


def _load(latents: Dataset, text: Dataset, rows: Rows, source: dict[str, str]) -> TrainingSet:
    shape = tuple(latents.manifest.extra["latent_shape"])
    mean, std = (_channels(latents.manifest.extra[name]) for name in ("latent_mean", "latent_std"))
    drawn = {name: _read(latents, name, rows, shape) for name in ("image_mean", "mask_mean", "sketch_mean")}
    for array in drawn.values():
        array -= mean
        array /= std
    image_std = _read(latents, "image_logvar", rows, shape) if _has_posterior(latents) else None
    if image_std is not None:
        np.exp(0.5 * image_std, out=image_std)
        image_std /= std

    return TrainingSet(
        ids=np.array([key.encode() for key in rows.ids]),
        image=drawn["image_mean"],
        image_std=image_std,
        conditions=(drawn["mask_mean"], drawn["sketch_mean"]),
        texts=load_texts(text, rows),
        sources=tuple(source[key] for key in rows.ids),
    )


def pad_texts(sequences: Sequence[Floats], masked: bool) -> tuple[Tensor, Tensor | None]:
    """[L, D] each → [B, L, D]; if ``masked`` the lengths differ, and a mask [B, L] says whose tokens are there."""
    if not masked:
        return torch.from_numpy(np.stack(sequences)), None
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    # Few lengths, so that kernels are chosen and memory is laid out anew less often.
    longest = math.ceil(int(lengths.max()) / LENGTH_MULTIPLE) * LENGTH_MULTIPLE
    padded = torch.zeros(len(sequences), longest, sequences[0].shape[1])
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = torch.from_numpy(np.array(sequence))
    return padded, torch.arange(longest) < lengths[:, None]


def _read(dataset: Dataset, column: str, rows: Rows, shape: tuple[int, ...]) -> Floats:
    array = mapped(len(rows), *shape)
    for row, (value,) in rows.read(dataset, [column]):
        array[row] = floats(value, shape, f"{column} of row {rows.ids[row]}", dataset)
    return array


def _has_posterior(latents: Dataset) -> bool:
    column = latents.part(latents.parts()[0].path, ["image_logvar"]).column("image_logvar")
    return bool(column.null_count < len(column))


def _channels(values: list[float]) -> Floats:
    return np.asarray(values, np.float32)[:, None, None]
