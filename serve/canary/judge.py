"""Measures how well a picture obeys its mask, with a face parser."""

from __future__ import annotations

import torch
from PIL import Image

from mmface.data.conditions import Parser
from mmface.evaluate.measuring.metrics import label_counts, mask_iou
from serve.canary.observer import Sample


class Judge:
    """The parser of ``serve.canary.parser``, on the CPU.

    Raises:
        InputError: the parser cannot be loaded.
    """

    def __init__(self, parser: str) -> None:
        self._parser = Parser(parser)

    def __call__(self, sample: Sample) -> float:
        """Mean intersection over union of the given mask and the parsed picture, from 0 to 1."""
        (found,) = self._parser([Image.fromarray(sample.picture)])
        given = torch.from_numpy(sample.mask.copy())
        return float(mask_iou(label_counts(torch.from_numpy(found)[None], given[None]))[0])
