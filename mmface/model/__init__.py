"""The transformer: maths (rope) → parts (attention, embedders, block) → assembly (transformer)."""

from mmface.model.conditioning import Conditioning, predict
from mmface.model.transformer import MMFaceDiT

MODALITIES = ("mask", "sketch")
"""The kinds of drawing; row ``i`` of the modality embedding belongs to ``MODALITIES[i]`` (§4)."""

__all__ = ["MODALITIES", "Conditioning", "MMFaceDiT", "predict"]
