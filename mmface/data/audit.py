"""Duplicates among photographs, and the audit that train and test share none (§6)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mmface.errors import DatasetError


@dataclass(frozen=True)
class Seen:
    """What the search for duplicates looks at; ``perceptual_hash`` is 64 bits as hex."""

    id: str
    uri: str
    perceptual_hash: str
    split: str = "train"


def duplicates(rows: Iterable[Seen], bits: int) -> dict[str, str]:
    """URIs to drop, each with the URI that is kept in its place.

    Exact duplicates share the id; near duplicates differ in at most ``bits`` bits of the perceptual hash. The row that
    comes first in the order of URIs is kept, whatever order the rows come in.
    """
    dropped: dict[str, str] = {}
    by_id: dict[str, str] = {}
    kept: list[int] = []
    uris: list[str] = []
    bands: dict[tuple[int, int], list[int]] = {}
    for row in sorted(rows, key=lambda row: row.uri):
        if row.id in by_id:
            dropped[row.uri] = by_id[row.id]
            continue
        value = int(row.perceptual_hash, 16)
        near = [i for band in _bands(value, bits) for i in bands.get(band, ()) if (kept[i] ^ value).bit_count() <= bits]
        if near:
            dropped[row.uri] = uris[min(near)]
            continue
        by_id[row.id] = row.uri
        for band in _bands(value, bits):
            bands.setdefault(band, []).append(len(kept))
        kept.append(value)
        uris.append(row.uri)
    return dropped


def audit_splits(rows: Iterable[Seen], bits: int) -> None:
    """Raises DatasetError, naming the pairs, when train and test share an exact or near duplicate."""
    rows = list(rows)
    split = {row.uri: row.split for row in rows}
    pairs = [f"{uri} = {twin}" for uri, twin in duplicates(rows, bits).items() if split[uri] != split[twin]]
    if pairs:
        raise DatasetError(f"train and test share {len(pairs)} pictures: {'; '.join(pairs[:5])}", field="images")


def _bands(value: int, bits: int) -> Iterator[tuple[int, int]]:
    """Of ``bits + 1`` bands, two hashes that differ in at most ``bits`` bits share one (pigeonhole)."""
    count = bits + 1
    for band in range(count):
        low, high = 64 * band // count, 64 * (band + 1) // count
        yield band, (value >> low) & ((1 << (high - low)) - 1)
