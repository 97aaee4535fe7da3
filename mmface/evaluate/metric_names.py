"""The name of a Fréchet distance, which holds all that two distances must share to be compared.

``mask/frechet_zoo-clip-1a2b3c4d_128px_n64-9f8e7d6c`` is the distance of 64 pictures painted from masks, at 128 pixels,
seen by the extractor ``zoo:clip`` with the weights ``1a2b3c4d``, to the source pictures of the rows ``9f8e7d6c``.
MLflow takes such names.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

FRECHET = "frechet_"
_NAME = re.compile(
    rf"{FRECHET}(?P<extractor>.+)-(?P<weights>[0-9a-f]{{8}})_(?P<resolution>\d+)px_n(?P<n>\d+)-(?P<rows>[0-9a-f]{{8}})"
)


@dataclass(frozen=True)
class FrechetName:
    """What a distance was measured with.

    Attributes:
        extractor: :func:`mmface.evaluate.metrics.slug` of the network's name.
        weights: hash of its identity, which follows its weights.
        resolution: side of the pictures, as text like the others.
        n: number of pictures.
        rows: hash of the ids of the rows.
    """

    extractor: str
    weights: str
    resolution: str
    n: str
    rows: str

    @classmethod
    def of(cls, extractor: str, identity: str, resolution: int, ids: Iterable[str]) -> FrechetName:
        """The name for these rows.

        Args:
            identity: of the extractor, as :func:`mmface.networks.components.component_identity` gives it.
            ids: of the rows, in any order.
        """
        ordered = sorted(ids)
        return cls(extractor, _hash(identity), str(resolution), str(len(ordered)), _hash(*ordered))

    @classmethod
    def parse(cls, metric: str) -> FrechetName | None:
        """What a metric ``<modality>/frechet_…`` was measured with; None for one that does not say it all.

        Versions before named the extractor and the number of pictures alone.
        """
        match = _NAME.fullmatch(metric.partition("/")[2])
        return cls(**match.groupdict()) if match else None

    def __str__(self) -> str:
        return f"{FRECHET}{self.extractor}-{self.weights}_{self.resolution}px_n{self.n}-{self.rows}"

    def differences(self, other: FrechetName) -> str:
        """How ``other`` differs, for a person."""
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__)
        return ", ".join(f"{name} {mine} and {its}" for name, mine, its in pairs if mine != its)


def _hash(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]
