"""Loss on held-out rows, always with the same noise at the same eight times, so that its curve is smooth.

Shapes: R rows, N = 16·R cases (row, modality, time), B cases of a batch, C latent channels, H W latent size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mmface.config import Train
from mmface.model import MODALITIES, Conditioning
from mmface.networks.precision import computes_in_bf16
from mmface.objectives import Objective
from mmface.train.parallel.world import World
from mmface.train.rows.batches import Batch, pad_texts
from mmface.train.rows.mapped import Floats
from mmface.train.rows.sets import TrainingSet
from mmface.train.watch.guard import OCTILES

HELD_OUT = "held_out/loss"


class FixedRows:
    """Held-out rows with fixed latents and noise, drawn once from (seed, row id).

    Attributes:
        data: the rows.
        latents: [R, C, H, W] normalised, sampled from the posterior as in training.
        noise: [R, C, H, W] standard normal.
    """

    def __init__(self, data: TrainingSet, seed: int) -> None:
        self.data = data
        drawn = [_draw(data, row, seed) for row in range(len(data))]
        self.latents, self.noise = (torch.from_numpy(np.stack(column)) for column in zip(*drawn, strict=True))

    def __len__(self) -> int:
        return len(self.data)

    def conditioning(self, rows: npt.NDArray[np.int64], modality: npt.NDArray[np.int64]) -> Conditioning:
        """The conditions of [B] rows, each as mask (0) or sketch (1) with its first caption; nothing is dropped."""
        texts = [self.data.texts.read(row, 0) for row in rows]
        sequence, mask = pad_texts([sequence for sequence, _ in texts], self.data.texts.masked)
        return Conditioning(
            _stack([self.data.conditions[kind][row] for row, kind in zip(rows, modality, strict=True)]),
            sequence,
            _stack([pooled for _, pooled in texts]),
            torch.from_numpy(modality),
            mask,
        )


class HeldOut:
    """Measures the loss of every row, as mask and as sketch, at the middle of each eighth of the times.

    Args:
        rows: the rows to measure.
        objective: converts the eighths to times and computes the loss.
        train: the recipe's; gives the precision.
        batch_size: most cases in a batch.
    """

    def __init__(self, rows: FixedRows, objective: Objective, train: Train, batch_size: int) -> None:
        self.rows, self.objective, self.train, self.batch_size = rows, objective, train, batch_size

    def __len__(self) -> int:
        return len(self.rows) * len(MODALITIES) * OCTILES

    @torch.no_grad()
    def measure(self, transformer: nn.Module, world: World) -> dict[str, float]:
        """Mean losses, the same on every rank: ``held_out/loss``, also by modality and by eighth as in training.

        ``held_out/mse`` is the squared error without weights, to compare objectives with different weights.

        Args:
            transformer: the weights to measure, in evaluation mode. Every rank calls it equally often.
            world: the ranks, which divide the cases among them.
        """
        seen = torch.zeros(len(self), 2, dtype=torch.float64, device=world.device)
        for places in self.shares(world):
            batch = self.batch(places % len(self)).to(world.device)
            with torch.autocast(
                world.device.type, torch.bfloat16, enabled=computes_in_bf16(self.train.precision, world.device)
            ):
                t = self.objective.timesteps(batch.uniform)
                scored = self.objective(transformer, batch.latents, batch.noise, t, batch.conditioning)
            own = torch.from_numpy(places < len(self)).to(world.device)
            values = torch.stack([scored.loss.double(), scored.mse.double()], dim=1)
            seen[batch.slots.to(world.device)[own]] = values[own]
        loss, mse = world.sum(seen).cpu().view(len(self.rows), len(MODALITIES), OCTILES, 2).unbind(-1)
        kinds = {f"{HELD_OUT}_{name}": loss[:, kind] for kind, name in enumerate(MODALITIES)}
        times = {f"{HELD_OUT}_t{octile}": loss[:, :, octile] for octile in range(OCTILES)}
        return {
            name: float(some.mean()) for name, some in ({HELD_OUT: loss, "held_out/mse": mse} | kinds | times).items()
        }

    def shares(self, world: World) -> Iterator[npt.NDArray[np.int64]]:
        """This rank's cases, batch by batch. Cases from N on are padding, so that all ranks have the same number."""
        share = -(-len(self) // world.size)
        own = world.rank * share + np.arange(share)
        yield from np.array_split(own, -(-share // self.batch_size))

    def batch(self, places: npt.NDArray[np.int64]) -> Batch:
        """The batch for the cases ``places`` [B], each in 0 … N - 1."""
        rows, modality, octile = np.unravel_index(places, (len(self.rows), len(MODALITIES), OCTILES))
        return Batch(
            slots=torch.from_numpy(places),
            ids=tuple(self.rows.data.ids[row].decode() for row in rows),
            latents=self.rows.latents[rows],
            noise=self.rows.noise[rows],
            uniform=torch.from_numpy(((octile + 0.5) / OCTILES).astype(np.float32)),
            conditioning=self.rows.conditioning(rows, modality),
        )


def _draw(data: TrainingSet, row: int, seed: int) -> tuple[Floats, Floats]:
    # Drawn by id, so that a row keeps its noise when the collection grows.
    digest = hashlib.sha256(data.ids[row]).digest()
    random = np.random.Generator(np.random.Philox([seed, int.from_bytes(digest[:16], "big")]))
    latents = data.image[row]
    if data.image_std is not None:
        latents = latents + data.image_std[row] * random.standard_normal(latents.shape, dtype=np.float32)
    return latents, random.standard_normal(latents.shape, dtype=np.float32)


def _stack(arrays: list[Floats]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))
