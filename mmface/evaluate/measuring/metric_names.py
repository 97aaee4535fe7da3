"""Names of Fréchet distances. A name holds everything that two distances must have in common to be compared.

``mask/frechet_zoo-clip-1a2b3c4d_128px_n64-9f8e7d6c`` is the distance between 64 images painted from masks at 128 pixels
and the photographs of the rows ``9f8e7d6c``, in the features of ``zoo:clip`` with the weights ``1a2b3c4d``. Such names
are valid metric names in MLflow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mmface.evaluate.measuring.metrics import short_hash

FRECHET = "frechet_"
_NAME = re.compile(
    rf"{FRECHET}(?P<extractor>.+)-(?P<weights>[0-9a-f]{{8}})_(?P<resolution>\d+)px_n(?P<n>\d+)-(?P<rows>[0-9a-f]{{8}})"
)


@dataclass(frozen=True)
class FrechetName:
    """The parts of the name of a Fréchet distance.

    Attributes:
        extractor: :func:`mmface.evaluate.measuring.metrics.slug` of the network's name.
        weights: hash of the network's identity, which depends on its weights.
        resolution: side of the images in pixels, as text like the other parts.
        n: number of images.
        rows: hash of the ids of the rows.
    """

    extractor: str
    weights: str
    resolution: str
    n: str
    rows: str

    @classmethod
    def of(cls, extractor: str, identity: str, resolution: int, ids: Iterable[str]) -> FrechetName:
        """The name for a distance over the rows ``ids``.

        Args:
            identity: of the extractor, from :func:`mmface.networks.components.component_identity`.
            ids: of the rows, in any order.
        """
        ordered = sorted(ids)
        return cls(extractor, short_hash(identity), str(resolution), str(len(ordered)), short_hash(*ordered))

    @classmethod
    def parse(cls, metric: str) -> FrechetName | None:
        """Parses a metric ``<modality>/frechet_…``; None if parts are missing.

        Earlier releases named only the extractor and the number of images.
        """
        match = _NAME.fullmatch(metric.partition("/")[2])
        return cls(**match.groupdict()) if match else None

    def __str__(self) -> str:
        return f"{FRECHET}{self.extractor}-{self.weights}_{self.resolution}px_n{self.n}-{self.rows}"

    def differences(self, other: FrechetName) -> str:
        """The parts that differ from ``other``, as readable text."""
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__)
        return ", ".join(f"{name} {mine} and {its}" for name, mine, its in pairs if mine != its)
