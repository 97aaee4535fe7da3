"""The learning rate and the moving average equal their closed forms; both optimizers reduce a loss."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmface.config import Phase, Recipe, Train
from mmface.train.ema import EMA
from mmface.train.optim import learning_rate, make_optimizer, set_learning_rate
from mmface.train.rows.sets import TrainingSet
from mmface.train.start import build_transformer


@given(steps=st.integers(1, 500), warmup=st.integers(0, 300), floor=st.floats(0, 1e-4))
def test_rate_warms_up_then_falls_to_the_floor_at_the_last_step(steps: int, warmup: int, floor: float):
    phase = Phase(resolution=64, steps=steps, learning_rate=1e-3, final_learning_rate=floor, warmup_steps=warmup)
    rates = [learning_rate(step, phase, steps) for step in range(steps)]
    assert rates[-1] == floor
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    if steps > 1:
        assert max(rates) == pytest.approx(1e-3)


def test_rate_at_known_steps():
    phase = Phase(resolution=64, steps=111, learning_rate=1.0, final_learning_rate=0.2, warmup_steps=10)
    assert [learning_rate(step, phase, 111) for step in (0, 4, 9, 10)] == [0.1, 0.5, 1.0, 1.0]
    assert learning_rate(60, phase, 111) == pytest.approx(0.6)  # halfway through the cosine


def test_the_average_equals_its_closed_form(recipe: Recipe, data: TrainingSet):
    model = build_transformer(recipe, data, None)
    ema = EMA(model, decay=0.5)
    weight, average = model.x_embedder.proj.weight, ema.module.x_embedder.proj.weight
    expected = weight.detach().clone()
    for step in range(12):
        with torch.no_grad():
            weight.add_(1.0)
        ema.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight.detach()
    assert torch.allclose(average, expected, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())
    assert [ema.decay_at(step) for step in (0, 8, 100)] == [0.1, 0.5, 0.5]


@pytest.mark.parametrize("name", ["adamw", "adamw8bit"])
def test_optimizers_reduce_the_loss(name: str):
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 64)
    optimizer = make_optimizer(layer.parameters(), Train(optimizer=name))
    set_learning_rate(optimizer, 1e-2)
    x, y = torch.randn(32, 64), torch.randn(32, 64)
    losses = []
    for _ in range(30):
        loss = (layer(x) - y).square().mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    if name == "adamw8bit":
        assert optimizer.state[layer.weight]["state1"].dtype == torch.uint8
