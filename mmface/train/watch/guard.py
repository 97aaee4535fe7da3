"""Stops training when a loss is not finite or far above the usual loss. No step is skipped and no value clamped."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from mmface.errors import TrainingError
from mmface.train.rows.batches import Draws
from mmface.train.rows.sets import TrainingSet
from mmface.train.step import GlobalLosses

WINDOW = 100
OCTILES = 8
NAMED = 4  # most samples that an error names


class UsualLoss:
    """The usual loss over the last ``WINDOW`` steps, for each eighth of the drawn times.

    Losses at different times differ by orders of magnitude: a healthy batch of four can have thirty times the loss of
    the median batch because of its times. So each sample is compared with the usual loss of its eighth: the median,
    over the steps in which the eighth occurred, of the step's mean loss in it. A few bad steps hardly change a median.
    """

    def __init__(self) -> None:
        self._steps: deque[list[float | None]] = deque(maxlen=WINDOW)

    def add(self, losses: GlobalLosses) -> None:
        """Records the losses of a step that was applied."""
        parts = [losses.loss[losses.octile == octile].double() for octile in range(OCTILES)]
        self._steps.append([float(part.mean()) if len(part) else None for part in parts])

    def ratios(self, losses: GlobalLosses) -> Tensor:
        """[B] fp64, each sample's loss divided by the usual loss of its eighth; NaN where that is not known yet."""
        if len(self._steps) < WINDOW:
            return torch.full(losses.loss.shape, torch.nan, dtype=torch.float64)
        seen = [[torch.nan if mean is None else mean for mean in step] for step in self._steps]
        medians: Tensor = torch.tensor(seen, dtype=torch.float64).nanmedian(dim=0).values
        return losses.loss / medians[losses.octile]

    def state_dict(self) -> list[list[float | None]]:
        """The state as plain numbers, which JSON stores exactly."""
        return list(self._steps)

    def load_state_dict(self, state: list[list[float | None]]) -> None:
        """Restores the result of :meth:`state_dict`."""
        self._steps = deque(state, maxlen=WINDOW)


def check(losses: GlobalLosses, usual: UsualLoss, max_ratio: float | None) -> tuple[str, list[int]] | None:
    """Checks a step before it is applied: the fault and the slots to blame, worst first, or ``None`` if it is fine.

    Args:
        max_ratio: largest allowed mean of :meth:`UsualLoss.ratios`; ``None`` allows any.
    """
    if not losses.finite:
        return "the loss is not finite", losses.bad_slots
    ratios = usual.ratios(losses)
    ratio = float(ratios.nanmean())
    if max_ratio is None or not ratio > max_ratio:  # false for NaN: the usual loss is not known yet
        return None
    worst = ratios.nan_to_num(0).argsort(descending=True, stable=True)
    return f"the loss is {ratio:.1f} times the usual loss (watch.max_loss_ratio is {max_ratio:g})", worst.tolist()


def stopped(
    fault: str, slots: list[int], step: int, draws: Draws, data: TrainingSet, saved: int | None
) -> TrainingError:
    """The error for a bad step; names the step, the samples of ``slots`` and the last good checkpoint.

    Args:
        step: optimizer steps done before the bad one.
        saved: step of the last checkpoint; ``None`` if there is none.
    """
    ids = [data.ids[row].decode() for row in draws.rows(len(data), step, slots)]
    named = ", ".join(key[:16] for key in ids[:NAMED])
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    kept = "there is no checkpoint yet" if saved is None else f"the last good checkpoint is of step {saved}"
    return TrainingError(
        f"{fault} at step {step + 1} (samples {named}{more}); the step was not applied, {kept}: "
        "lower learning_rate or check these samples",
        field=f"phases.{draws.phase}",
    )
