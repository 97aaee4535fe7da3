"""The tally of a stage: what its finished parts contain together, checked against the error budget (§6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmface.datasets.dataset import Publisher
from mmface.datasets.manifest import File
from mmface.datasets.parts import DATA, receipt_of
from mmface.datasets.records import QUARANTINE
from mmface.datasets.stage import is_filtered
from mmface.errors import StageError
from mmface.store.tables import read_rows, to_parquet


@dataclass(frozen=True)
class Tally:
    """Sums over the finished parts of a stage.

    Attributes:
        counts: rows by outcome, for the manifest.
        extra: how many rows were reused and how many computed.
        files: the manifest's entries of the parts.
    """

    counts: dict[str, int]
    extra: dict[str, int]
    files: list[File]


def reconcile(publisher: Publisher, parts: Sequence[str], folder: str = DATA) -> Tally:
    """Counts the rows of all parts, including those of earlier attempts, and writes their quarantined rows to
    ``quarantine/``.

    Deletes files of ``folder`` that are not in ``parts``: another version of the code may have split the rows
    differently, and publishing would list both.
    """
    out = quarantined = filtered = reused = 0
    files = []
    stale = publisher.finished("quarantine") | publisher.finished(folder)
    for part in parts:
        stale.discard(f"{folder}/{part}")
        receipt = receipt_of(publisher.store, f"{folder}/{part}")
        out += receipt.file.rows or 0
        unwanted = sum(is_filtered(row["error"]) for row in receipt.quarantined)
        filtered += unwanted
        quarantined += len(receipt.quarantined) - unwanted
        reused += receipt.reused
        files.append(receipt.file)
        if receipt.quarantined:
            path = f"quarantine/{part}"
            publisher.write(path, to_parquet(receipt.quarantined, QUARANTINE))
            stale.discard(path)
    for path in stale:
        publisher.store.delete(path)
    rows = out + quarantined + filtered
    counts = {"in": rows, "out": out, "quarantined": quarantined, "duplicates": 0, "filtered": filtered}
    return Tally(counts, {"reused": reused, "computed": rows - reused}, files)


def check_budget(publisher: Publisher, counts: Mapping[str, int], max_quarantined: float) -> None:
    """Raises StageError, with the most frequent reasons, if no row came out or more rows were quarantined than the
    recipe allows.

    The quarantine files stay, so that the user can inspect them, fix the cause and replay the rows.
    """
    if counts["out"] and counts["quarantined"] <= max_quarantined * counts["in"]:
        return
    keys = sorted(publisher.finished("quarantine"))
    rows = [row for key in keys for row in read_rows(publisher.store.read(key)) if not is_filtered(row["error"])]
    reasons = Counter(row["message"] for row in rows)
    first = {row["message"]: row["uri"] or row["id"] for row in reversed(rows)}
    shown = [f"{count}x {reason}, first {first[reason]}" for reason, count in reasons.most_common(3)]
    top = "; ".join([*shown, "mmface quarantine list shows all"] if shown else ["no row was left"])
    raise StageError(
        f"{counts['quarantined']} of {counts['in']} rows were quarantined, more than data.max_quarantined "
        f"{max_quarantined:g} allows ({top})",
        field=publisher.identity.stage,
    )
