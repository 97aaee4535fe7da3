"""Tiny random networks of every class that production uses, and a tokenizer with one token per letter."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny
from transformers import (
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
)

from mmface.imaging.labels import LABELS
from mmface.model import MMFaceDiT
from mmface.networks.u2net import U2Net
from mmface.pipeline import MMFacePipeline
from mmface.sampling import make_scheduler

CHANNELS = 4
FACTOR = 4
TOKENS = 16
TEXT_WIDTH = 16
SIDE = 32
_TOWER = {"hidden_size": TEXT_WIDTH, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
TEXT = {"vocab_size": 54, "max_position_embeddings": TOKENS}
TEXT |= {"bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}


def tokenizer(folder: Path) -> CLIPTokenizer:
    """A tokenizer with one token per letter."""
    letters = string.ascii_lowercase
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    made = CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=TOKENS)
    made.save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def text_encoder() -> CLIPTextModel:
    torch.manual_seed(1)
    return CLIPTextModel(CLIPTextConfig(**_TOWER, **TEXT)).eval()


def clip() -> CLIPModel:
    torch.manual_seed(6)
    vision = {**_TOWER, "image_size": SIDE, "patch_size": 8}
    config = CLIPConfig(text_config={**_TOWER, **TEXT}, vision_config=vision, projection_dim=TEXT_WIDTH)
    return CLIPModel(config).eval()


def parser() -> SegformerForSemanticSegmentation:
    torch.manual_seed(7)
    config = SegformerConfig(
        depths=[1] * 4,
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1] * 4,
        decoder_hidden_size=16,
        num_labels=len(LABELS),
    )
    return SegformerForSemanticSegmentation(config).eval()


def dino(folder: Path) -> str:
    """A DINOv2 with features of width 16, saved in ``folder``."""
    torch.manual_seed(9)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(folder)
    BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    return str(folder)


def sketcher() -> U2Net:
    torch.manual_seed(8)
    return U2Net().eval()


def kl(**options: Any) -> AutoencoderKL:
    torch.manual_seed(2)
    return AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        **{"latent_channels": CHANNELS, **options},
    ).eval()


def kl_flux() -> AutoencoderKL:
    """A VAE with sixteen channels and a shift, which the released models ignore (§4)."""
    return kl(latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159)


def kl_whitened() -> AutoencoderKL:
    return kl(latents_mean=(0.1, -0.2, 0.3, 0.0), latents_std=(0.5, 1.0, 2.0, 3.0))


def dc() -> AutoencoderDC:
    torch.manual_seed(3)
    return AutoencoderDC(
        latent_channels=CHANNELS,
        encoder_block_out_channels=(8, 8, 16),
        decoder_block_out_channels=(8, 8, 16),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), ()),
        decoder_qkv_multiscales=((), (), ()),
        scaling_factor=0.7,
    ).eval()


def dc_whitened() -> AutoencoderDC:
    """A VAE whose config has ``latents_mean`` and ``latents_std``, although its constructor does not take them (§4)."""
    vae = dc()
    vae.register_to_config(latents_mean=[0.5, 0.0, -0.5, 1.0], latents_std=[2.0, 1.0, 0.5, 0.25])
    return vae


def taesd() -> AutoencoderTiny:
    torch.manual_seed(4)
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        latent_channels=CHANNELS,
    ).eval()


VAES = {"kl": kl, "kl_whitened": kl_whitened, "dc": dc, "dc_whitened": dc_whitened, "tiny": taesd}


def transformer(**options: Any) -> MMFaceDiT:
    torch.manual_seed(5)
    sizes = {"in_channels": 2 * CHANNELS, "hidden_size": 32, "depth": 2, "num_heads": 2, "text_embed_dim": TEXT_WIDTH}
    model = MMFaceDiT(**{**sizes, **options}).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # adaLN is initialised to zero, which would hide the inputs
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def pipeline(
    folder: Path, vae: str = "kl", objective: str = "flow", sampler: str = "euler", **options: Any
) -> MMFacePipeline:
    return MMFacePipeline(
        transformer=transformer(),
        vae=VAES[vae](),
        text_encoder=text_encoder(),
        tokenizer=tokenizer(folder),
        scheduler=make_scheduler(objective, sampler),
        sample_size=32,
        **options,
    )


def components(root: Path) -> dict[str, str]:
    """The ``components`` of a recipe, each saved in a folder below ``root``."""
    square = {"height": SIDE, "width": SIDE}
    kl().save_pretrained(root / "vae")
    clip().save_pretrained(root / "clip")
    tokenizer(root / "clip")
    CLIPImageProcessor(size=square, crop_size=square).save_pretrained(root / "clip")
    parser().save_pretrained(root / "parser")
    SegformerImageProcessor(size=square).save_pretrained(root / "parser")
    sketcher().save_pretrained(root / "sketcher")
    folders = {"vae": "vae", "text_encoder": "clip", "clip": "clip", "parser": "parser", "sketcher": "sketcher"}
    return {role: str(root / folder) for role, folder in folders.items()}
