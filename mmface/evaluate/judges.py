"""Runs the frozen networks that evaluate images: parser, sketcher and CLIP.

Shapes: B images, H x W pixels, D width of the CLIP space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mmface.config import Components
from mmface.data.conditions import Sketcher
from mmface.networks.components import load_clip, load_parser


@dataclass(frozen=True)
class Seen:
    """The outputs of parser and CLIP for a batch of images."""

    labels: Tensor  # [B, H, W] from the parser
    stages: tuple[Tensor, ...]  # [B, C_i, H_i, W_i] features of the parser's encoder
    embeddings: Tensor  # [B, D] from CLIP


class Judges:
    """The recipe's parser, sketcher and CLIP, loaded once."""

    def __init__(self, components: Components, device: str = "cpu") -> None:
        self.device = device
        parser, self.parser_processor = load_parser(components.parser)
        clip, self.tokenizer, self.clip_processor = load_clip(components.clip)
        self.parser: Any = parser.to(device)
        self.clip: Any = clip.to(device)
        self.sketcher = Sketcher(components.sketcher, device)

    @torch.inference_mode()
    def look(self, images: Sequence[Image.Image]) -> Seen:
        """Images of one size -> labels, features and embeddings."""
        pixels = self._pixels(self.parser_processor, images)
        parsed = self.parser(pixel_values=pixels, output_hidden_states=True)
        size = (images[0].height, images[0].width)
        logits = F.interpolate(parsed.logits, size=size, mode="bilinear", align_corners=False)
        embedded = self.clip.get_image_features(pixel_values=self._pixels(self.clip_processor, images))
        return Seen(logits.argmax(1).cpu(), tuple(parsed.hidden_states), embedded.pooler_output.float().cpu())

    @torch.inference_mode()
    def read(self, texts: Sequence[str]) -> Tensor:
        """Texts -> CLIP embeddings [B, D]."""
        tokens = self.tokenizer(
            list(texts),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).to(self.device)
        embedded = self.clip.get_text_features(**tokens)
        return torch.as_tensor(embedded.pooler_output).float().cpu()

    def draw(self, images: Sequence[Image.Image]) -> Tensor:
        """Images -> sketches of the sketcher, grey [B, H, W] in 0..1, dark lines on white."""
        return torch.stack([torch.from_numpy(drawing).float() / 255 for drawing in self.sketcher(images)])

    def _pixels(self, processor: Any, images: Sequence[Image.Image]) -> Tensor:
        return torch.as_tensor(processor(images=list(images), return_tensors="pt")["pixel_values"]).to(self.device)
