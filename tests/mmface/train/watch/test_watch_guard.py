"""The guard stops a run when the loss explodes, before the step is applied; it does not stop for noise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mmface.config import Recipe
from mmface.errors import TrainingError
from mmface.train.checkpoints.state import TrainState
from mmface.train.hooks import Hooks
from mmface.train.loop import train_phase
from mmface.train.rows.batches import Draws
from mmface.train.rows.sets import TrainingSet
from mmface.train.step import GlobalLosses
from mmface.train.watch.guard import WINDOW, UsualLoss, check
from tests.mmface.train.test_loop import save_checkpoint

ROWS, BAD_STEP, BAD_SLOT = 480, 110, 2


def step(loss: torch.Tensor, u: torch.Tensor) -> GlobalLosses:
    return GlobalLosses(loss.float(), torch.zeros(len(loss), dtype=torch.long), (u * 8).long(), 1.0)


def denoising(u: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Losses like those of unweighted noise prediction: they vary by three orders of magnitude over the times."""
    spread = torch.randn(len(u), generator=random) * 0.2
    return torch.exp(-7 * u.sqrt() + spread)


def usual_after(batch_size: int, steps: int, seed: int = 0) -> tuple[UsualLoss, torch.Generator]:
    usual, random = UsualLoss(), torch.Generator().manual_seed(seed)
    for _ in range(steps):
        u = torch.rand(batch_size, generator=random)
        usual.add(step(denoising(u, random), u))
    return usual, random


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_noise_does_not_stop_a_run(batch_size: int):
    usual, random = UsualLoss(), torch.Generator().manual_seed(batch_size)
    worst = 0.0
    for _ in range(1000):
        u = torch.rand(batch_size, generator=random)
        losses = step(denoising(u, random), u)
        assert check(losses, usual, 10.0) is None
        worst = max(worst, np.nan_to_num(float(usual.ratios(losses).mean())))
        usual.add(losses)
    assert worst > 1.1


def test_a_bad_sample_and_a_slow_divergence_stop_a_run():
    usual, random = usual_after(16, WINDOW)
    u = torch.rand(16, generator=random)
    loss = denoising(u, random)
    loss[5] = 1000.0
    found = check(step(loss, u), usual, 10.0)
    assert found is not None
    assert found[1][0] == 5
    assert check(step(loss, u), usual, None) is None
    for late in range(200):
        u = torch.rand(16, generator=random)
        losses = step(denoising(u, random) * 1.1**late, u)
        if check(losses, usual, 10.0):
            break
        usual.add(losses)
    assert 15 < late < 35


def test_ratios_are_not_checked_until_the_usual_loss_is_known():
    usual, random = usual_after(4, WINDOW - 1)
    huge = step(torch.full((4,), 1e6), torch.rand(4, generator=random))
    assert usual.ratios(huge).isnan().all()
    assert check(huge, usual, 10.0) is None
    assert check(replace(huge, grad_norm=float("inf")), usual, 10.0) == ("the loss is not finite", [0, 1, 2, 3])


def test_the_usual_loss_survives_json_exactly():
    usual, random = usual_after(2, 2 * WINDOW)
    again = UsualLoss()
    again.load_state_dict(json.loads(json.dumps(usual.state_dict(), allow_nan=False)))
    u = torch.rand(2, generator=random)
    losses = step(denoising(u, random), u)
    assert torch.equal(again.ratios(losses), usual.ratios(losses))
    again.add(losses)
    usual.add(losses)
    assert again.state_dict() == usual.state_dict()


@pytest.fixture
def poisoned(recipe: Recipe, data: TrainingSet) -> tuple[Recipe, TrainingSet, bytes]:
    """Many rows, one of which is damaged and first drawn at step ``BAD_STEP``."""
    place = np.arange(ROWS) % len(data)
    ids = np.array([f"{row:05d}{'x' * 59}".encode() for row in range(ROWS)])
    many = replace(
        data,
        ids=ids,
        image=data.image[place],
        image_std=None,
        conditions=(data.conditions[0][place], data.conditions[1][place]),
        texts=replace(data.texts, place=data.texts.place[place]),
    )
    phase = recipe.phases[0].model_copy(update={"steps": 120, "learning_rate": 1e-3})
    train = recipe.train.model_copy(update={"checkpoint_every": 55})
    [row] = Draws(recipe.seed, 0, 4, 0.05, 0.05).rows(ROWS, BAD_STEP, [BAD_SLOT])
    many.image[row] *= 1e4
    return recipe.model_copy(update={"phases": (phase,), "train": train}), many, ids[row]


def test_a_run_stops_before_the_bad_step_however_often_it_is_resumed(poisoned, tmp_path: Path):
    recipe, data, bad = poisoned
    seen: list[TrainState] = []

    def keep(state: TrainState) -> None:
        seen.append(state)
        save_checkpoint(state, tmp_path / f"{state.step}")

    message = (
        rf"^phases\.0: the loss is \d\S+ times the usual loss \(watch.max_loss_ratio is 10\) at step {BAD_STEP + 1} "
        rf"\(samples {bad[:16].decode()}, .*\); the step was not applied, the last good checkpoint is of step 110: "
    )
    with pytest.raises(TrainingError, match=message) as first:
        train_phase(recipe, 0, data, hooks=Hooks(lambda line: None, keep))
    state = seen[-1]
    assert state.step == BAD_STEP
    save_checkpoint(state, tmp_path / "after")
    for name in ("weights.safetensors", "transformer/diffusion_pytorch_model.safetensors", "state.json"):
        assert (tmp_path / "after" / name).read_bytes() == (tmp_path / "110" / name).read_bytes(), name
    with pytest.raises(TrainingError) as again:
        train_phase(recipe, 0, data, hooks=Hooks(lambda line: None, seen.append), resume=tmp_path / "55")
    assert str(again.value) == str(first.value)


def test_without_a_limit_training_continues(poisoned):
    recipe, data, _ = poisoned
    free = recipe.model_copy(update={"watch": recipe.watch.model_copy(update={"max_loss_ratio": None})})
    assert train_phase(free, 0, data, hooks=Hooks(lambda line: None, lambda state: None)).step == 120


def test_before_the_first_checkpoint_the_error_says_so(recipe, data):
    image = data.image.copy()
    image[3] = np.nan
    with pytest.raises(TrainingError, match="the step was not applied, there is no checkpoint yet: "):
        train_phase(recipe, 0, replace(data, image=image), hooks=Hooks(lambda line: None, lambda state: None))
