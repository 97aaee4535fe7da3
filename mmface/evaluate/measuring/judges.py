"""Runs the frozen networks that evaluate images: parser, sketcher, CLIP, and standard networks where they are given.

Shapes: B images, H x W pixels, D width of the CLIP space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mmface.config import Recipe
from mmface.data.conditions import Sketcher
from mmface.evaluate.measuring.llm_score import load_llm_score
from mmface.evaluate.measuring.measures import extractor, judge
from mmface.imaging.pixels import to_tensor
from mmface.networks.checks import JUDGE, PARSER
from mmface.networks.components import load_clip, load_parser
from mmface.networks.standard import load_dino, load_inception, load_lpips

Extract = Callable[[Sequence[Image.Image]], Tensor]


@dataclass(frozen=True)
class Seen:
    """What the networks see in a batch of images."""

    labels: Tensor  # [B, H, W] from the parser
    stages: tuple[Tensor, ...]  # [B, C_i, H_i, W_i] features of the parser's encoder
    embeddings: Tensor  # [B, D] from CLIP
    features: dict[str, Tensor]  # [B, D] by extractor (see :func:`extractor`), CLIP and parser included


class Judges:
    """The recipe's judge of masks, its sketcher and CLIP, and the standard networks that it names, loaded once.

    Raises:
        InputError: a network does not exist or is of another class; names the recipe key.
    """

    def __init__(self, recipe: Recipe, device: str = "cpu") -> None:
        self.device = device
        role = JUDGE if recipe.evaluate.parser else PARSER
        parser, self.parser_processor = load_parser(judge(recipe), role)
        clip, self.tokenizer, self.clip_processor = load_clip(recipe.components.clip)
        self.parser: Any = parser.to(device)
        self.clip: Any = clip.to(device)
        self.sketcher = Sketcher(recipe.components.sketcher, device)
        self.llm_score = load_llm_score(recipe)
        given = recipe.metrics
        self.clip_key, self.parser_key = extractor(recipe.components.clip), extractor(judge(recipe))
        self.extractors: dict[str, Extract] = {}
        if given.inception:
            inception = load_inception(given.inception).to(device)
            self.extractors[extractor(given.inception)] = lambda images: inception(self._tensors(images))
        if given.dino:
            self.extractors[extractor(given.dino)] = self._dino(given.dino)
        self.lpips = load_lpips(given.lpips).to(device) if given.lpips else None

    @torch.inference_mode()
    def look(self, images: Sequence[Image.Image]) -> Seen:
        """Images of one size -> labels, features and embeddings."""
        pixels = self._pixels(self.parser_processor, images)
        parsed = self.parser(pixel_values=pixels, output_hidden_states=True)
        size = (images[0].height, images[0].width)
        logits = F.interpolate(parsed.logits, size=size, mode="bilinear", align_corners=False)
        means = torch.cat([stage.float().mean((2, 3)) for stage in parsed.hidden_states], dim=1)
        features = {**self.features(images), self.parser_key: means.cpu()}
        return Seen(logits.argmax(1).cpu(), tuple(parsed.hidden_states), features[self.clip_key], features)

    @torch.inference_mode()
    def features(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Images -> features [B, D] by extractor."""
        embedded = self.clip.get_image_features(pixel_values=self._pixels(self.clip_processor, images))
        found = {key: extract(images).float().cpu() for key, extract in self.extractors.items()}
        return {self.clip_key: embedded.pooler_output.float().cpu(), **found}

    @torch.inference_mode()
    def perceive(self, images: Sequence[Image.Image], sources: Sequence[Image.Image]) -> Tensor:
        """LPIPS of pairs of images -> [B]; only if the recipe names its backbone."""
        assert self.lpips is not None
        distances: Tensor = self.lpips(self._tensors(images), self._tensors(sources))
        return distances.flatten().float().cpu()

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

    def _dino(self, name: str) -> Extract:
        model, processor = load_dino(name)
        model.to(self.device)
        return lambda images: model(pixel_values=self._pixels(processor, images)).pooler_output

    def _tensors(self, images: Sequence[Image.Image]) -> Tensor:
        """[B, 3, H, W] in [-1, 1]."""
        return torch.stack([to_tensor(image, (image.height, image.width)) for image in images]).to(self.device)

    def _pixels(self, processor: Any, images: Sequence[Image.Image]) -> Tensor:
        return torch.as_tensor(processor(images=list(images), return_tensors="pt")["pixel_values"]).to(self.device)
