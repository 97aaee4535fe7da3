"""The losses that stand in a line of the log: means since the last one."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import Tensor

from mmface.model import MODALITIES
from mmface.train.step import GlobalLosses
from mmface.train.watch.guard import Usual


class Meter:
    """Sums and counts: the loss as a whole, by modality and by eighth of the drawn times; the gradient norm.

    Part of the checkpoint, so that a resumed run logs the same numbers and refuses the same steps.

    Attributes:
        usual: what the last steps lost.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self.usual = Usual()

    def add(self, losses: GlobalLosses) -> None:
        """Takes in one step."""
        self._add("loss", losses.loss)
        for index, name in enumerate(MODALITIES):
            self._add(f"loss_{name}", losses.loss[losses.modality == index])
        for octile in range(8):
            self._add(f"loss_t{octile}", losses.loss[losses.octile == octile])
        self._sums["grad_norm"] += losses.grad_norm
        self._counts["grad_norm"] += 1
        self.usual.add(losses)

    def means(self) -> dict[str, float]:
        """Mean of everything that occurred since the last call; starts anew."""
        means = {name: self._sums[name] / count for name, count in self._counts.items() if count}
        self._sums.clear()
        self._counts.clear()
        return means

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers; JSON keeps them exactly."""
        return {"sums": dict(self._sums), "counts": dict(self._counts), "usual": self.usual.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse of :meth:`state_dict`."""
        self._sums = defaultdict(float, state["sums"])
        self._counts = defaultdict(int, state["counts"])
        self.usual.load_state_dict(state["usual"])

    def _add(self, name: str, values: Tensor) -> None:
        self._sums[name] += float(values.double().sum())
        self._counts[name] += len(values)
