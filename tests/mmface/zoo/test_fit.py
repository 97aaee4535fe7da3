"""The training loop of the zoo networks."""

import pytest
import torch
from torch import nn

from mmface.zoo.fit import Plan, fit


def test_the_learning_rate_warms_up_and_decays_to_zero() -> None:
    plan = Plan(steps=1000, rate=1.0, warm=10)
    assert [plan.at(step) for step in (0, 500, 1000)] == pytest.approx([0.1, 0.5, 0.0])


def test_fit_minimises_the_loss_in_place() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    x = torch.randn(64, 3)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.25
    fit("line", model, lambda _: (model(x) - y).square().mean(), Plan(steps=300, rate=0.1, weight_decay=0.0))
    torch.testing.assert_close(model.weight.detach(), torch.tensor([[1.0, -2.0, 0.5]]), rtol=0, atol=0.01)
    torch.testing.assert_close(model.bias.detach(), torch.tensor([0.25]), rtol=0, atol=0.01)
