"""When training stops by itself: a loss that is not finite, or out of all proportion. Nothing is skipped or clamped."""

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
NAMED = 4  # samples in an error


class Usual:
    """What a sample's time has cost in the last ``WINDOW`` steps.

    Losses at different times differ by orders of magnitude: a batch of four whose times happen to be expensive ones
    loses thirty times the median batch now and then, and nothing is wrong. So each eighth of the drawn times has its
    own usual loss, the median of its means over the steps in which it occurred, and every sample is held against its
    own. Medians do not follow a few bad steps.
    """

    def __init__(self) -> None:
        self._steps: deque[list[float | None]] = deque(maxlen=WINDOW)

    def add(self, losses: GlobalLosses) -> None:
        """Takes in a step that was applied."""
        parts = [losses.loss[losses.octile == octile].double() for octile in range(OCTILES)]
        self._steps.append([float(part.mean()) if len(part) else None for part in parts])

    def ratios(self, losses: GlobalLosses) -> Tensor:
        """[B] fp64, each sample's loss over the usual one of its eighth; NaN where that is not known yet."""
        if len(self._steps) < WINDOW:
            return torch.full(losses.loss.shape, torch.nan, dtype=torch.float64)
        seen = [[torch.nan if mean is None else mean for mean in step] for step in self._steps]
        medians: Tensor = torch.tensor(seen, dtype=torch.float64).nanmedian(dim=0).values
        return losses.loss / medians[losses.octile]

    def state_dict(self) -> list[list[float | None]]:
        """Plain numbers; JSON keeps them exactly."""
        return list(self._steps)

    def load_state_dict(self, state: list[list[float | None]]) -> None:
        """The reverse of :meth:`state_dict`."""
        self._steps = deque(state, maxlen=WINDOW)


def check(losses: GlobalLosses, usual: Usual, max_ratio: float | None) -> tuple[str, list[int]] | None:
    """What is wrong with a step and its slots, the worst first; ``None`` if it may be applied.

    Args:
        max_ratio: of the step's loss to the usual one: the mean of :meth:`Usual.ratios`; ``None`` allows any.
    """
    if not losses.finite:
        return "the loss is not finite", losses.bad_slots
    ratios = usual.ratios(losses)
    ratio = float(ratios.nanmean())
    if max_ratio is None or not ratio > max_ratio:  # NaN, not known yet, is not more
        return None
    worst = ratios.nan_to_num(0).argsort(descending=True, stable=True)
    return f"the loss is {ratio:.1f} times the usual one, over watch.max_loss_ratio {max_ratio:g},", worst.tolist()


def stopped(
    fault: str, slots: list[int], step: int, draws: Draws, data: TrainingSet, saved: int | None
) -> TrainingError:
    """The error that names the step, the samples of ``slots`` and the last good checkpoint.

    Args:
        step: optimizer steps done before the bad one.
        saved: step of the last checkpoint; ``None`` if there is none.
    """
    ids = [data.ids[row].decode() for row in draws.rows(len(data), step, slots)]
    named = ", ".join(key[:16] for key in ids[:NAMED])
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    kept = "there is no checkpoint yet" if saved is None else f"the last good checkpoint is of step {saved}"
    return TrainingError(
        f"{fault} at step {step + 1} (samples {named}{more}); nothing of it was applied, {kept}: "
        "lower learning_rate or look at these samples",
        field=f"phases.{draws.phase}",
    )
