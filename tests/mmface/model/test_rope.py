"""The rotary embedding against closed forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmface.model.rope import THETA, axial_rotations, build_rotations, rotate

HEAD_DIM = 16
CPU = torch.device("cpu")

positions = st.integers(min_value=-20, max_value=60)


def rotation_at(row: int, column: int) -> torch.Tensor:
    return axial_rotations(torch.tensor([row]), torch.tensor([column]), HEAD_DIM)


@given(positions, positions, positions, positions, positions, positions)
@settings(max_examples=30)
def test_attention_depends_only_on_the_distance(row, column, down, right, by_row, by_column) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, HEAD_DIM, generator=generator)

    def score(row: int, column: int) -> float:
        turned = rotate(query, rotation_at(row, column)), rotate(key, rotation_at(row + down, column + right))
        return (turned[0] * turned[1]).sum().item()

    assert score(row, column) == pytest.approx(score(row + by_row, column + by_column), abs=1e-4)


def test_pairs_are_interleaved_and_halves_are_row_then_column() -> None:
    x = torch.arange(HEAD_DIM, dtype=torch.float32).view(1, 1, 1, -1)
    turned = rotate(x, rotation_at(3, 5)).flatten()
    for pair in range(HEAD_DIM // 2):
        position, k = (3, pair) if pair < HEAD_DIM // 4 else (5, pair - HEAD_DIM // 4)
        angle = torch.tensor(position * THETA ** (-2 * k / (HEAD_DIM // 2)))
        a, b = 2.0 * pair, 2.0 * pair + 1
        expected = torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()])
        torch.testing.assert_close(turned[2 * pair : 2 * pair + 2], expected, rtol=1e-5, atol=1e-5)


def test_image_tokens_are_row_major() -> None:
    image = build_rotations(3, 2, 0, HEAD_DIM, "zero", CPU).image
    expected = [rotation_at(row, column)[0] for row in range(3) for column in range(2)]
    torch.testing.assert_close(image, torch.stack(expected))


def test_text_modes() -> None:
    assert build_rotations(2, 2, 4, HEAD_DIM, "zero", CPU).text is None
    text = build_rotations(2, 2, 4, HEAD_DIM, "sequential", CPU).text
    torch.testing.assert_close(text, torch.cat([rotation_at(i, i) for i in range(4)]))


def test_length_and_dtype_are_kept() -> None:
    x = torch.randn(2, 6, 3, HEAD_DIM, generator=torch.Generator().manual_seed(1))
    rotation = build_rotations(2, 3, 0, HEAD_DIM, "zero", CPU).image
    torch.testing.assert_close(rotate(x, rotation).norm(dim=-1), x.norm(dim=-1))
    assert rotate(x.bfloat16(), rotation).dtype == torch.bfloat16
    assert rotate(x, None) is x
