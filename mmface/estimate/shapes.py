"""Counts FLOPs, parameters and sizes of a recipe's networks on the meta device, without their weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import torch
from transformers import CLIPTextConfig, CLIPTextModel, SegformerConfig, SegformerForSemanticSegmentation

from mmface.config import Components, Recipe
from mmface.data.conditions import SKETCH_SIDE
from mmface.errors import InputError
from mmface.estimate.flops import META, count, transformer_flops
from mmface.estimate.hardware import SHAPES
from mmface.model import MMFaceDiT
from mmface.networks.places import component_folders, resolve
from mmface.networks.u2net import U2Net
from mmface.networks.vae import encode_moments, latent_channels, spatial_factor


@dataclass(frozen=True)
class Shapes:
    """The networks of a recipe without their weights.

    Raises:
        InputError: the shape of a component is not known on this machine.
    """

    recipe: Recipe

    @cached_property
    def vae(self) -> Any:
        """The VAE."""
        config = component_config(self.recipe.components, "vae")
        with META:
            return getattr(diffusers, config["_class_name"]).from_config(config)

    @cached_property
    def text_encoder(self) -> Any:
        """The text encoder."""
        config = component_config(self.recipe.components, "text_encoder")
        with META:
            return CLIPTextModel(CLIPTextConfig(**config.get("text_config", config)))

    @cached_property
    def transformer(self) -> MMFaceDiT:
        """The model, with the same arguments as in training."""
        with META:
            model: MMFaceDiT = MMFaceDiT(
                in_channels=2 * latent_channels(self.vae),
                text_embed_dim=self.text_width,
                **self.recipe.model.model_dump(),
            )
        return model

    @property
    def text_width(self) -> int:
        """D of the text encoder."""
        return int(self.text_encoder.config.hidden_size)

    @property
    def text_length(self) -> int:
        """L, tokens of a padded caption."""
        return int(self.text_encoder.config.max_position_embeddings)

    @property
    def has_posterior(self) -> bool:
        """Whether the VAE returns log-variances."""
        return isinstance(self.vae, diffusers.AutoencoderKL)

    def latent(self, pixels: int) -> tuple[int, int, int]:
        """C, H, W of the latents of a square image."""
        side = pixels // spatial_factor(self.vae)
        return latent_channels(self.vae), side, side

    def parameters(self) -> int:
        """Number of parameters of the transformer."""
        return sum(parameter.numel() for parameter in self.transformer.parameters())

    def transformer_flops(self, pixels: int) -> int:
        """FLOPs of one forward pass of the transformer for one image."""
        return transformer_flops(self.transformer, self.latent(pixels), (self.text_length, self.text_width))

    def vae_flops(self, pixels: int) -> int:
        """FLOPs to encode one image."""
        return count(lambda: encode_moments(self.vae, torch.empty(1, 3, pixels, pixels, device=META)))

    def text_flops(self) -> int:
        """FLOPs to encode one caption."""
        tokens = torch.zeros(1, self.text_length, dtype=torch.long, device=META)
        return count(lambda: self.text_encoder(tokens))

    def parser_flops(self) -> int:
        """FLOPs to parse one image."""
        config = component_config(self.recipe.components, "parser")
        side = config.pop("input_side")
        with META:
            model = SegformerForSemanticSegmentation(SegformerConfig(**config))
            return count(lambda: model(torch.empty(1, 3, side, side)))

    def sketcher_flops(self) -> int:
        """FLOPs to sketch one image."""
        config = component_config(self.recipe.components, "sketcher")
        with META:
            model: Any = U2Net.from_config(config)
            return count(lambda: model(torch.empty(1, 3, SKETCH_SIDE, SKETCH_SIDE)))


def component_config(components: Components, role: str) -> dict[str, Any]:
    """The config of a component: from its folder, or from :data:`mmface.estimate.hardware.SHAPES` for a hub id.

    Raises:
        InputError: the component is not in a folder nor in ``SHAPES``, or its config cannot be read.
    """
    name = getattr(components, role)
    folder = Path(resolve(name))
    if not folder.is_dir():
        known = SHAPES.get(name.partition("@")[0])
        if known is None:
            message = f"the shape of {name} is not known; download it and name its folder, or use one of: {_names()}"
            raise InputError(message, field=f"components.{role}")
        return dict(known)
    if role == "text_encoder":
        folder = component_folders(folder)[0]
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"cannot read {name} ({error}); use a hub id or the folder of a model"
        raise InputError(message, field=f"components.{role}") from None
    processor = folder / "preprocessor_config.json"
    if role == "parser" and processor.is_file():
        config["input_side"] = json.loads(processor.read_text(encoding="utf-8"))["size"]["height"]
    return config


def _names() -> str:
    return ", ".join(SHAPES)
