"""Stages whose networks are on a GPU: inputs are moved to it and outputs moved back.

Runs without a GPU, on torch's meta device: meta tensors have no values, so reading one or mixing it with CPU tensors
raises an error.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mmface.config import Recipe
from mmface.data import conditions, latents, text
from mmface.evaluate.measuring import metrics
from mmface.evaluate.measuring.judges import Judges
from mmface.imaging.labels import mask_to_png

SIDE = 32


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> str:
    """The meta device, which computes only shapes; tensors moved back to the CPU are zeros."""
    real = Tensor.cpu

    def cpu(self: Tensor) -> Tensor:
        return torch.zeros_like(self, device="cpu") if self.is_meta else real(self)

    monkeypatch.setattr(Tensor, "cpu", cpu)
    for module in (conditions, latents, text):
        monkeypatch.setattr(module, "accelerator", lambda: "meta")
    return "meta"


def _row() -> dict[str, Any]:
    sink = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8)).save(sink, "PNG")
    return {
        "id": "a",
        "source": "x",
        "split": "test",
        "image": sink.getvalue(),
        "mask": None,
        "sketch": conditions.grey_png(np.full((SIDE, SIDE), 200, np.uint8)),
        "captions": ["a face"],
        "width": SIDE,
        "height": SIDE,
    }


MASK = mask_to_png(np.ones((SIDE, SIDE), np.uint8))


def test_text(tiny_recipe: Recipe, device: str) -> None:
    stage = text.Text(tiny_recipe)
    assert stage.text_encoder.device.type == device
    assert len(stage([_row()]).rows) == 1


def test_conditions(tiny_recipe: Recipe, device: str) -> None:
    stage = conditions.Conditions(tiny_recipe)
    assert {stage.parser.model.device.type, stage.sketcher.model.device.type} == {device}
    assert len(stage([_row()]).rows) == 1


def test_latents(tiny_recipe: Recipe, device: str) -> None:
    stage = latents.Latents(tiny_recipe, SIDE)
    assert stage.vae.device.type == device
    assert len(stage([{**_row(), "mask": MASK}]).rows) == 1


def test_judges(tiny_recipe: Recipe, device: str) -> None:
    judges = Judges(tiny_recipe, device)
    pictures = [Image.new("RGB", (SIDE, SIDE))] * 2
    seen = judges.look(pictures)
    judged = (seen.labels, seen.embeddings, judges.draw(pictures))
    assert {one.device.type for one in judged} == {"cpu"}
    assert metrics.feature_distance(seen.stages, seen.stages).shape == (2,)
