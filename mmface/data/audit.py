"""Finds duplicates among photographs, and fails if train and test lists share one (§6).

The split of a photograph is either *listed*, by a list of its collection, or *drawn*, by its hash:

- If lists put two duplicates into different splits, only the owner of the lists can resolve the conflict. The audit
  checks all rows before any duplicate is dropped, and fails the run: dropping one copy would silently remove a
  photograph from a benchmark, or move one from a benchmark into training.
- Of any other duplicates one copy is kept, and a held-out photograph is never used for training: a listed split takes
  precedence over a drawn one, and test over train.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mmface.errors import DatasetError

SHOWN = 20


@dataclass(frozen=True, slots=True)
class Seen:
    """The columns of a row that the search for duplicates uses.

    Attributes:
        id: SHA-256 of the file.
        uri: URI of the file.
        perceptual_hash: 64 bits as hex.
        split: "train" or "test".
        source: name of the collection.
        listed: whether the split comes from a list.
    """

    id: str
    uri: str
    perceptual_hash: str
    split: str = "train"
    source: str = ""
    listed: bool = False


class Near:
    """An index that finds rows whose hash differs from a given one in at most ``bits`` bits, without a full scan."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.rows: list[tuple[int, Seen]] = []
        self.bands: dict[tuple[int, int], list[int]] = {}

    def add(self, row: Seen) -> None:
        """Adds ``row`` to the index."""
        value = int(row.perceptual_hash, 16)
        for band in _bands(value, self.bits):
            self.bands.setdefault(band, []).append(len(self.rows))
        self.rows.append((value, row))

    def find(self, row: Seen) -> list[Seen]:
        """Near duplicates of ``row``, in the order in which they were added; includes copies of the same file."""
        value = int(row.perceptual_hash, 16)
        places = {i for band in _bands(value, self.bits) for i in self.bands.get(band, ())}
        return [self.rows[i][1] for i in sorted(places) if (self.rows[i][0] ^ value).bit_count() <= self.bits]


def duplicates(rows: Iterable[Seen], bits: int) -> dict[str, str]:
    """URIs of the duplicates to drop, each with the URI that is kept instead.

    Exact duplicates have the same id; near duplicates differ in at most ``bits`` bits of the perceptual hash. The copy
    to keep does not depend on the order of the rows: a listed split comes first, then test, then the name of the
    collection, then the URI.
    """
    dropped: dict[str, str] = {}
    kept = Near(bits)
    for row in sorted(rows, key=_rank):
        originals = kept.find(row)
        if originals:
            dropped[row.uri] = originals[0].uri
        else:
            kept.add(row)
    return dropped


def audit_splits(rows: Iterable[Seen], bits: int) -> None:
    """Raises DatasetError with the pairs if lists put duplicates into both train and test.

    Args:
        rows: every row, before duplicates are dropped; rows with a drawn split are ignored.
        bits: the largest difference of the perceptual hashes of near duplicates, in bits.
    """
    given = sorted((row for row in rows if row.listed), key=_rank)
    held_out = Near(bits)
    pairs = []
    for row in given:  # test comes first
        if row.split == "test":
            held_out.add(row)
        else:
            pairs += [f"{row.uri} (train) = {original.uri} (test)" for original in held_out.find(row)]
    if pairs:
        more = f"; and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
        remedy = "remove one of each pair from its list" + (", or lower data.near_duplicate_bits" if bits else "")
        raise DatasetError(
            f"train and test share {len(pairs)} photographs: {'; '.join(pairs[:SHOWN])}{more}; {remedy}", field="images"
        )


def _rank(row: Seen) -> tuple[bool, bool, str, str]:
    return not row.listed, row.split != "test", row.source, row.uri


def _bands(value: int, bits: int) -> Iterator[tuple[int, int]]:
    """The ``bits + 1`` bands of a hash: hashes that differ in at most ``bits`` bits share a band (pigeonhole)."""
    count = bits + 1
    for band in range(count):
        low, high = 64 * band // count, 64 * (band + 1) // count
        yield band, (value >> low) & ((1 << (high - low)) - 1)
