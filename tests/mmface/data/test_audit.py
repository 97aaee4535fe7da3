"""Duplicates: the index finds the same ones as a comparison of all pairs; conflicting lists always fail the run."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmface.data.audit import Seen, audit_splits, duplicates
from mmface.errors import DatasetError

HASHES = st.integers(0, 2**64 - 1).map(lambda value: value & 0xFF000000000000FF)
ROWS = st.lists(
    st.tuples(HASHES, st.sampled_from(["train", "test"]), st.booleans(), st.sampled_from(["a", "b"])), max_size=25
)


def seen(uri: str, value: int = 0, split: str = "train", listed: bool = False, source: str = "") -> Seen:
    return Seen(f"{value:064x}", uri, f"{value:016x}", split, source, listed)


def made(rows: list[tuple[int, str, bool, str]]) -> list[Seen]:
    return [seen(f"uri-{i:03d}", *row) for i, row in enumerate(rows)]


def near(one: Seen, other: Seen, bits: int) -> bool:
    return (int(one.perceptual_hash, 16) ^ int(other.perceptual_hash, 16)).bit_count() <= bits


@given(st.lists(HASHES, max_size=30), st.integers(0, 6))
def test_duplicates_equal_those_of_a_comparison_of_all_pairs(hashes: list[int], bits: int):
    rows = [seen(f"uri-{i:03d}", value) for i, value in enumerate(hashes)]
    kept: list[Seen] = []
    expected = {}
    for row in rows:
        twin = next((other for other in kept if near(row, other, bits)), None)
        if twin is None:
            kept.append(row)
        else:
            expected[row.uri] = twin.uri
    assert duplicates(reversed(rows), bits) == expected


@given(ROWS, st.integers(0, 4))
def test_the_audit_fails_exactly_when_a_comparison_of_all_pairs_finds_a_conflict(
    given_rows: list[tuple[int, str, bool, str]], bits: int
):
    rows = made(given_rows)
    conflict = any(
        one.listed and other.listed and one.split != other.split and near(one, other, bits)
        for one, other in itertools.combinations(rows, 2)
    )
    if conflict:
        with pytest.raises(DatasetError):
            audit_splits(rows, bits)
    else:
        audit_splits(rows, bits)


@given(ROWS, st.integers(0, 4), st.randoms(use_true_random=False))
def test_kept_rows_have_no_duplicates_and_listed_splits_keep_their_rows(rows_, bits: int, random):
    rows = made(rows_)
    try:
        audit_splits(rows, bits)
    except DatasetError:
        return
    dropped = duplicates(rows, bits)
    kept = [row for row in rows if row.uri not in dropped]
    assert not any(near(one, other, bits) for one, other in itertools.combinations(kept, 2))
    by_uri = {row.uri: row for row in rows}
    for uri, twin in dropped.items():
        assert twin not in dropped
        if by_uri[uri].listed:
            assert by_uri[twin].listed
            assert by_uri[uri].split == by_uri[twin].split
        elif not by_uri[twin].listed and by_uri[uri].split == "test":
            assert by_uri[twin].split == "test"
    random.shuffle(rows)
    assert duplicates(rows, bits) == dropped


def test_of_exact_duplicates_the_first_path_is_kept():
    rows = [seen("b.jpg", 7), seen("a.jpg", 7), seen("c.jpg", 8)]
    assert duplicates(rows, 0) == {"b.jpg": "a.jpg"}


def test_the_copy_of_the_first_collection_by_name_is_kept():
    rows = [seen("/here/1.jpg", 7, source="zoo"), seen("/there/1.jpg", 7, source="art")]
    assert duplicates(rows, 0) == {"/here/1.jpg": "/there/1.jpg"}


def test_a_duplicate_of_a_held_out_photograph_is_never_in_train():
    drawn = [seen("a.jpg", 7, "train"), seen("b.jpg", 7, "test")]
    audit_splits(drawn, 0)
    assert duplicates(drawn, 0) == {"a.jpg": "b.jpg"}
    listed = [seen("a.jpg", 7, "test"), seen("b.jpg", 7, "train", listed=True)]
    audit_splits(listed, 0)
    assert duplicates(listed, 0) == {"a.jpg": "b.jpg"}


@pytest.mark.parametrize(("other", "bits"), [(7, 0), (6, 1)])
def test_duplicates_in_train_and_test_lists_of_two_collections_fail_the_run(other: int, bits: int):
    rows = [
        seen("ffhq/a.jpg", 7, "train", listed=True, source="ffhq"),
        seen("celeba/b.jpg", other, "test", listed=True, source="celeba"),
    ]
    with pytest.raises(
        DatasetError, match=r"share 1 photographs: ffhq/a\.jpg \(train\) = celeba/b\.jpg \(test\); remove one"
    ):
        audit_splits(rows, bits)


def test_the_audit_checks_rows_that_would_be_dropped_as_duplicates():
    # If duplicates were dropped first, b would go as a copy of a, and nothing near c would be left.
    rows = [seen("a", 0b0000, "train", True), seen("b", 0b0011, "train", True), seen("c", 0b1111, "test", True)]
    with pytest.raises(DatasetError, match=r"b \(train\) = c \(test\)"):
        audit_splits(rows, 2)


def test_the_error_counts_all_pairs_and_lists_the_first_ones():
    rows = [seen(f"{split}-{i}", i, split, True) for i in range(30) for split in ("train", "test")]
    with pytest.raises(DatasetError, match=r"share 30 photographs.*; and 10 more; remove one"):
        audit_splits(rows, 0)
