"""Averages losses and gradient norms between two logged steps."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import Tensor

from mmface.model import MODALITIES
from mmface.train.step import GlobalLosses
from mmface.train.watch.guard import UsualLoss


class Meter:
    """Sums and counts of the gradient norm and of the loss: all samples, by modality, by eighth of the drawn times.

    Part of the checkpoint, so that a resumed run logs the same numbers and stops at the same steps.

    Attributes:
        usual: the usual loss of the last steps.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self.usual = UsualLoss()

    def add(self, losses: GlobalLosses) -> None:
        """Adds the losses of one step."""
        self._add("loss", losses.loss)
        for index, name in enumerate(MODALITIES):
            self._add(f"loss_{name}", losses.loss[losses.modality == index])
        for octile in range(8):
            self._add(f"loss_t{octile}", losses.loss[losses.octile == octile])
        self._sums["grad_norm"] += losses.grad_norm
        self._counts["grad_norm"] += 1
        self.usual.add(losses)

    def means(self) -> dict[str, float]:
        """Means since the last call; resets them."""
        means = {name: self._sums[name] / count for name, count in self._counts.items() if count}
        self._sums.clear()
        self._counts.clear()
        return means

    def state_dict(self) -> dict[str, Any]:
        """The state as plain numbers, which JSON stores exactly."""
        return {"sums": dict(self._sums), "counts": dict(self._counts), "usual": self.usual.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the result of :meth:`state_dict`."""
        self._sums = defaultdict(float, state["sums"])
        self._counts = defaultdict(int, state["counts"])
        self.usual.load_state_dict(state["usual"])

    def _add(self, name: str, values: Tensor) -> None:
        self._sums[name] += float(values.double().sum())
        self._counts[name] += len(values)
