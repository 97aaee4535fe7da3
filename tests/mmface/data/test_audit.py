"""Duplicates: the banded search must agree with comparing every pair."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmface.data.audit import Seen, audit_splits, duplicates
from mmface.errors import DatasetError

HASHES = st.integers(0, 2**64 - 1).map(lambda value: value & 0xFF000000000000FF)


@given(st.lists(HASHES, max_size=30), st.integers(0, 6))
def test_near_duplicates_equal_brute_force(hashes: list[int], bits: int):
    rows = [Seen(f"{i:064x}", f"uri-{i:03d}", f"{value:016x}") for i, value in enumerate(hashes)]
    kept: list[tuple[int, str]] = []
    expected = {}
    for row, value in zip(rows, hashes, strict=True):
        twin = next((uri for other, uri in kept if (other ^ value).bit_count() <= bits), None)
        if twin is None:
            kept.append((value, row.uri))
        else:
            expected[row.uri] = twin
    assert duplicates(reversed(rows), bits) == expected


def test_exact_duplicates_keep_the_first_path():
    rows = [Seen("x", "b.jpg", "f" * 16), Seen("x", "a.jpg", "f" * 16), Seen("y", "c.jpg", "0" * 16)]
    assert duplicates(rows, 0) == {"b.jpg": "a.jpg"}


def test_audit_names_the_pair():
    rows = [Seen("x", "a.jpg", "f" * 16, "train"), Seen("y", "b.jpg", "f" * 16, "test")]
    with pytest.raises(DatasetError, match=r"b\.jpg = a\.jpg"):
        audit_splits(rows, 0)
    audit_splits(rows[:1], 0)
