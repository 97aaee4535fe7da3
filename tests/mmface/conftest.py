"""Tiny random networks of the production classes in folders, and a recipe that names them."""

from __future__ import annotations

import os
from pathlib import Path

# A tiny run must not pay for threads; set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from mmface.config import Recipe
from mmface.recipes import parse_recipe

SIDE = 32
TOKENS = 16


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """32 pixels, two denoising steps, every component a local folder."""
    root = tmp_path_factory.mktemp("components")
    _save_vae(root / "vae")
    _save_clip(root / "clip")
    _save_parser(root / "parser")
    _save_sketcher(root / "sketch")
    names = {"vae": "vae", "text_encoder": "clip", "clip": "clip", "parser": "parser", "sketcher": "sketch"}
    return parse_recipe(
        {
            "name": "tiny",
            "components": {role: str(root / folder) for role, folder in names.items()},
            "model": {"hidden_size": 32, "depth": 1, "num_heads": 2},
            "phases": [{"resolution": SIDE, "steps": 1}],
            "sampling": {"num_inference_steps": 2},
            "evaluate": {"n": 3, "n_sketch": 2, "batch_size": 2},
        }
    )


@pytest.fixture(scope="session")
def tiny_transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random transformer that fits ``tiny_recipe``."""
    import torch

    from mmface.model import MMFaceDiT

    torch.manual_seed(0)
    model = MMFaceDiT(in_channels=8, hidden_size=32, depth=1, num_heads=2, text_embed_dim=16)
    for parameter in model.parameters():  # adaLN starts at zero, which would hide the inputs
        torch.nn.init.normal_(parameter, std=0.05)
    folder = tmp_path_factory.mktemp("transformer")
    model.save_pretrained(folder)
    return folder


def _save_vae(folder: Path) -> None:
    import torch
    from diffusers import AutoencoderKL

    torch.manual_seed(1)
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
    ).save_pretrained(folder)


def _save_clip(folder: Path) -> None:
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    letters = [chr(code) for code in range(97, 123)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=TOKENS)
    tokenizer.save_pretrained(folder)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**tower, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": TOKENS}
    torch.manual_seed(2)
    vision = {**tower, "image_size": SIDE, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    CLIPImageProcessor(size=size, crop_size=size).save_pretrained(folder)


def _save_parser(folder: Path) -> None:
    import torch
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    torch.manual_seed(3)
    config = SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1] * 4, decoder_hidden_size=16, num_labels=19
    )
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)


def _save_sketcher(folder: Path) -> None:
    import torch

    from mmface.data.u2net import U2Net

    torch.manual_seed(4)
    U2Net().save_pretrained(folder)
