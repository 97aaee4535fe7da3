"""Duplicates among photographs, and the audit that train and test share none (§6).

A split is either *listed*, by a collection's list, or *drawn*, by the hash of the picture. The two want different care:

- Two copies that lists give to different sides are a conflict that only the lists' owner can solve. The audit looks
  for these among all rows, before anything is dropped, and fails the run: dropping one copy would take a picture out of
  somebody's benchmark, or a benchmark's picture into training, without a word.
- Nobody asked for a drawn split, so a copy of a picture may be dropped whatever was drawn for it. Which copy stays is
  decided so that no copy of a held-out picture is trained on: a listed split beats a drawn one, test beats train.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mmface.errors import DatasetError

SHOWN = 20


@dataclass(frozen=True, slots=True)
class Seen:
    """What the search for duplicates looks at.

    Attributes:
        id: SHA-256 of the file.
        uri: where it is.
        perceptual_hash: 64 bits as hex.
        split: "train" or "test".
        source: name of the collection.
        listed: the split comes from a list.
    """

    id: str
    uri: str
    perceptual_hash: str
    split: str = "train"
    source: str = ""
    listed: bool = False


class Near:
    """Finds earlier rows whose hash differs from a given one in at most ``bits`` bits, without comparing every pair."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.rows: list[tuple[int, Seen]] = []
        self.bands: dict[tuple[int, int], list[int]] = {}

    def add(self, row: Seen) -> None:
        """Makes ``row`` findable."""
        value = int(row.perceptual_hash, 16)
        for band in _bands(value, self.bits):
            self.bands.setdefault(band, []).append(len(self.rows))
        self.rows.append((value, row))

    def find(self, row: Seen) -> list[Seen]:
        """Rows near ``row`` in the order in which they were added; copies of the same file are always among them."""
        value = int(row.perceptual_hash, 16)
        places = {i for band in _bands(value, self.bits) for i in self.bands.get(band, ())}
        return [self.rows[i][1] for i in sorted(places) if (self.rows[i][0] ^ value).bit_count() <= self.bits]


def duplicates(rows: Iterable[Seen], bits: int) -> dict[str, str]:
    """URIs to drop, each with the URI that is kept in its place.

    Exact duplicates share the id; near duplicates differ in at most ``bits`` bits of the perceptual hash. The row is
    kept that comes first by: split from a list, test, name of the collection, URI — whatever order the rows come in.
    """
    dropped: dict[str, str] = {}
    kept = Near(bits)
    for row in sorted(rows, key=_rank):
        twins = kept.find(row)
        if twins:
            dropped[row.uri] = twins[0].uri
        else:
            kept.add(row)
    return dropped


def audit_splits(rows: Iterable[Seen], bits: int) -> None:
    """Raises DatasetError, naming the pairs, when lists give copies of one picture to train and to test.

    Args:
        rows: every row, before duplicates are dropped; rows with a drawn split take no part.
        bits: how many bits of the perceptual hash near duplicates may differ in.
    """
    given = sorted((row for row in rows if row.listed), key=_rank)
    held_out = Near(bits)
    pairs = []
    for row in given:  # test comes first
        if row.split == "test":
            held_out.add(row)
        else:
            pairs += [f"{row.uri} (train) = {twin.uri} (test)" for twin in held_out.find(row)]
    if pairs:
        more = f"; and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
        remedy = "take one of each pair from its list" + (", or lower data.near_duplicate_bits" if bits else "")
        raise DatasetError(
            f"train and test share {len(pairs)} pictures: {'; '.join(pairs[:SHOWN])}{more}; {remedy}", field="images"
        )


def _rank(row: Seen) -> tuple[bool, bool, str, str]:
    return not row.listed, row.split != "test", row.source, row.uri


def _bands(value: int, bits: int) -> Iterator[tuple[int, int]]:
    """Of ``bits + 1`` bands, two hashes that differ in at most ``bits`` bits share one (pigeonhole)."""
    count = bits + 1
    for band in range(count):
        low, high = 64 * band // count, 64 * (band + 1) // count
        yield band, (value >> low) & ((1 << (high - low)) - 1)
