"""Measures wall time, speed and memory of a phase; these figures differ from run to run."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mmface.config import Recipe, Train
from mmface.estimate.flops import META, transformer_flops
from mmface.estimate.hardware import find_gpu
from mmface.model import MMFaceDiT
from mmface.networks.precision import computes_in_bf16
from mmface.train.rows.sets import TrainingSet

WALL_TIME = frozenset({"images_per_s", "data_wait", "eta_s", "flops_per_s", "mfu", "memory_gib"})
"""Figures that may differ between two runs of the same recipe; all others in the history are reproducible."""


class Clock:
    """Measures the wall time between two logged steps.

    Args:
        step: step at which the run starts or resumes.
        steps: last step of the phase.
        batch_size: images per step.
        flops: FLOPs of the model per image, see :func:`training_flops`.
        peak: peak FLOP/s of all devices together, if known.
        device: the device whose memory is measured.
    """

    def __init__(
        self, step: int, steps: int, batch_size: int, flops: int, peak: float | None, device: torch.device
    ) -> None:
        self.steps, self.batch_size, self.flops, self.peak, self.device = steps, batch_size, flops, peak, device
        self._begun = self._since = time.monotonic()
        self._first = self._step = step
        self._waited = self._aside = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside the context as waiting for data."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Leaves the time inside the context, such as painting a preview, out of the speed but not out of the ETA."""
        start = time.monotonic()
        yield
        self._aside += time.monotonic() - start

    def read(self, step: int) -> dict[str, float]:
        """The figures of ``WALL_TIME`` since the last call; starts a new interval.

        - ``images_per_s``: speed.
        - ``data_wait``: fraction of the time spent waiting for data.
        - ``eta_s``: seconds to the end at the average pace since the start.
        - ``flops_per_s``: FLOP/s of the model, all workers together; ``mfu``: their fraction of the peak, if known.
        - ``memory_gib``: see :func:`peak_memory`.
        """
        now = time.monotonic()
        seconds = max(now - self._since - self._aside, 1e-9)
        images_per_s = (step - self._step) * self.batch_size / seconds
        figures = {
            "images_per_s": images_per_s,
            "data_wait": self._waited / seconds,
            "eta_s": (self.steps - step) * (now - self._begun) / (step - self._first),
            "flops_per_s": images_per_s * self.flops,
            "memory_gib": peak_memory(self.device) / 2**30,
        }
        if self.peak is not None:
            figures["mfu"] = figures["flops_per_s"] / self.peak
        self._step, self._since, self._waited, self._aside = step, now, 0.0, 0.0
        return figures


def training_flops(recipe: Recipe, data: TrainingSet) -> int:
    """FLOPs of training per image: one forward pass, and twice as much for backward.

    Work repeated for gradient checkpointing is not counted, as usual for MFU (Chowdhery et al., arXiv 2204.02311,
    appendix B).
    """
    with META:
        transformer: MMFaceDiT = MMFaceDiT(
            in_channels=2 * data.latent_channels, text_embed_dim=data.text_width, **recipe.model.model_dump()
        )
    channels, height, width = data.image.shape[1:]
    text = (data.texts.tokens, data.text_width)
    return 3 * transformer_flops(transformer, (channels, height, width), text)


def peak_flops(train: Train, device: torch.device) -> float | None:
    """Peak FLOP/s of one device in the recipe's precision; ``None`` if the device is not a known GPU."""
    gpu = find_gpu(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if gpu is None:
        return None
    return gpu.bf16 if computes_in_bf16(train.precision, device) else gpu.fp32


def peak_memory(device: torch.device) -> int:
    """Peak memory so far in bytes: on a GPU what torch allocated, else the resident memory with mapped files."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
