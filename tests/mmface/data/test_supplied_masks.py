"""Supplied masks: wrong sizes and labels are quarantined, faces too small for the recipe are filtered."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from mmface.config import Recipe
from mmface.data.conditions import Conditions
from mmface.datasets.stage import Row, is_filtered


def png(pixels: np.ndarray) -> bytes:
    sink = BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def row(name: str, mask: np.ndarray | bytes) -> Row:
    picture = np.full((64, 64, 3), 120, np.uint8)
    data = mask if isinstance(mask, bytes) else png(mask)
    return {"id": name, "uri": f"photos/{name}.png", "width": 64, "height": 64, "image": png(picture), "mask": data}


def labels(value: int, side: int = 64, rows: int = 64) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    mask[:rows] = value
    return mask


@pytest.fixture(scope="module")
def stage(tiny_recipe: Recipe) -> Conditions:
    data = tiny_recipe.data.model_copy(update={"min_face_area": 0.25})
    return Conditions(tiny_recipe.model_copy(update={"data": data}))


def test_bad_masks_are_quarantined_with_their_reason_and_small_faces_filtered(stage: Conditions):
    result = stage(
        [
            row("good", labels(1)),
            row("half the size", labels(1, side=32)),
            row("label 19", labels(19)),
            row("another shape", np.zeros((32, 64), np.uint8)),
            row("other colours", np.full((64, 64, 3), (7, 8, 9), np.uint8)),
            row("cut", png(labels(1))[:-40]),
            row("small face", labels(1, rows=10)),
        ]
    )
    assert [made["id"] for made in result.rows] == ["good", "half the size"]
    reasons = {one["id"]: (one["error"], one["message"]) for one in result.quarantined}
    assert {name: error for name, (error, _) in reasons.items()} == {
        "label 19": "invalid_input:mask",
        "another shape": "invalid_input:mask",
        "other colours": "invalid_input:mask",
        "cut": "invalid_input:mask",
        "small face": "filtered:data.min_face_area",
    }
    assert "label 19 is not among 0..18" in reasons["label 19"][1]
    assert "64x32 has another aspect ratio than its photograph 64x64" in reasons["another shape"][1]
    assert reasons["small face"][1] == "the face covers 15.6%, less than the minimum of 25.0%"
    assert [one["id"] for one in result.quarantined if is_filtered(one["error"])] == ["small face"]
