"""Counts FLOPs on the meta device, without computing anything.

``torch.utils.flop_counter`` counts matrix products, convolutions and attention; a multiply-add is two FLOPs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from mmface.model import MMFaceDiT

META = torch.device("meta")


def count(call: Callable[[], object]) -> int:
    """FLOPs of ``call``."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return int(counter.get_total_flops())


def transformer_flops(transformer: MMFaceDiT, latent: tuple[int, int, int], text: tuple[int, int]) -> int:
    """FLOPs of one forward pass of a transformer on the meta device, for one image.

    Args:
        latent: C, H, W of the image's latents.
        text: L, D of a padded caption.
    """
    channels, height, width = latent
    caption = torch.empty(1, *text, device=META)
    latents = torch.empty(1, 2 * channels, height, width, device=META)
    kind = torch.zeros(1, dtype=torch.long, device=META)
    return count(lambda: transformer(latents, torch.empty(1, device=META), caption, caption[:, 0], kind))
