"""Duplicates: the banded search must agree with comparing every pair; lists that disagree are never smoothed over."""

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
def test_near_duplicates_equal_brute_force(hashes: list[int], bits: int):
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
def test_the_audit_finds_what_brute_force_finds(given_rows: list[tuple[int, str, bool, str]], bits: int):
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
def test_what_is_kept_shares_nothing_and_costs_no_list_its_held_out_rows(rows_, bits: int, random):
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


def test_exact_duplicates_keep_the_first_path():
    rows = [seen("b.jpg", 7), seen("a.jpg", 7), seen("c.jpg", 8)]
    assert duplicates(rows, 0) == {"b.jpg": "a.jpg"}


def test_collections_come_in_the_order_of_their_names_wherever_they_lie():
    rows = [seen("/here/1.jpg", 7, source="zoo"), seen("/there/1.jpg", 7, source="art")]
    assert duplicates(rows, 0) == {"/here/1.jpg": "/there/1.jpg"}


def test_a_drawn_split_gives_way_and_no_copy_of_a_held_out_picture_is_trained_on():
    drawn = [seen("a.jpg", 7, "train"), seen("b.jpg", 7, "test")]
    audit_splits(drawn, 0)
    assert duplicates(drawn, 0) == {"a.jpg": "b.jpg"}
    listed = [seen("a.jpg", 7, "test"), seen("b.jpg", 7, "train", listed=True)]
    audit_splits(listed, 0)
    assert duplicates(listed, 0) == {"a.jpg": "b.jpg"}


@pytest.mark.parametrize(("other", "bits"), [(7, 0), (6, 1)])
def test_lists_that_disagree_stop_the_run_across_collections(other: int, bits: int):
    rows = [
        seen("ffhq/a.jpg", 7, "train", listed=True, source="ffhq"),
        seen("celeba/b.jpg", other, "test", listed=True, source="celeba"),
    ]
    with pytest.raises(
        DatasetError, match=r"share 1 photographs: ffhq/a\.jpg \(train\) = celeba/b\.jpg \(test\); remove one"
    ):
        audit_splits(rows, bits)


def test_a_conflict_is_found_where_a_third_copy_would_have_hidden_it():
    # b would be dropped as a copy of a, and c kept: nothing left to see.
    rows = [seen("a", 0b0000, "train", True), seen("b", 0b0011, "train", True), seen("c", 0b1111, "test", True)]
    with pytest.raises(DatasetError, match=r"b \(train\) = c \(test\)"):
        audit_splits(rows, 2)


def test_many_pairs_are_counted_and_some_are_shown():
    rows = [seen(f"{split}-{i}", i, split, True) for i in range(30) for split in ("train", "test")]
    with pytest.raises(DatasetError, match=r"share 30 photographs.*; and 10 more; remove one"):
        audit_splits(rows, 0)
