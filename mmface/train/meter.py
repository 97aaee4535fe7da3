"""What stands in a line of the log: mean losses since the last one, and wall time."""

from __future__ import annotations

import time
from collections import defaultdict

from torch import Tensor

from mmface.model import MODALITIES
from mmface.train.step import GlobalLosses


class Meter:
    """Sums and counts: the loss as a whole, by modality and by eighth of the drawn times; the gradient norm.

    Part of the checkpoint, so that a resumed run logs the same numbers.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, losses: GlobalLosses) -> None:
        """Takes in one step."""
        self._add("loss", losses.loss)
        for index, name in enumerate(MODALITIES):
            self._add(f"loss_{name}", losses.loss[losses.modality == index])
        for octile in range(8):
            self._add(f"loss_t{octile}", losses.loss[losses.octile == octile])
        self._sums["grad_norm"] += losses.grad_norm
        self._counts["grad_norm"] += 1

    def means(self) -> dict[str, float]:
        """Mean of everything that occurred since the last call; starts anew."""
        means = {name: self._sums[name] / count for name, count in self._counts.items() if count}
        self._sums.clear()
        self._counts.clear()
        return means

    def state_dict(self) -> dict[str, dict[str, float]]:
        """Plain numbers; JSON keeps them exactly."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, dict[str, float]]) -> None:
        """The reverse of :meth:`state_dict`."""
        self._sums = defaultdict(float, state["sums"])
        self._counts = defaultdict(int, {name: int(count) for name, count in state["counts"].items()})

    def _add(self, name: str, values: Tensor) -> None:
        self._sums[name] += float(values.double().sum())
        self._counts[name] += len(values)


class Clock:
    """Wall time between two lines of the log; no part of the run's identity."""

    def __init__(self, step: int) -> None:
        self._step, self._since, self._waited = step, time.monotonic(), 0.0
        self._wait_from = 0.0

    def waiting(self) -> Clock:
        """Context in which the step waits for its data."""
        return self

    def __enter__(self) -> None:
        self._wait_from = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._waited += time.monotonic() - self._wait_from

    def read(self, step: int, steps: int, batch_size: int) -> dict[str, float]:
        """Images a second, share of time waiting for data, seconds to go; starts a new interval."""
        now = time.monotonic()
        seconds = max(now - self._since, 1e-9)
        figures = {
            "images_per_s": (step - self._step) * batch_size / seconds,
            "data_wait": self._waited / seconds,
            "eta_s": (steps - step) * seconds / (step - self._step),
        }
        self._step, self._since, self._waited = step, now, 0.0
        return figures
