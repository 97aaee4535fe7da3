"""A tiny random pipeline of the production classes, and requests for it."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageDraw
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
)

from mmface.config import Recipe
from mmface.data.labels import mask_to_png
from mmface.data.u2net import U2Net
from mmface.model import MMFaceDiT
from mmface.pipeline import MMFacePipeline
from mmface.recipes import parse_recipe
from mmface.sampling import make_scheduler

TOKENS = 16


def tiny_recipe(components: dict[str, str] | None = None, **serve: Any) -> Recipe:
    """32 and 64 pixels, three steps."""
    phases = [{"resolution": 32, "steps": 1}, {"resolution": 64, "steps": 1}]
    sampling = {"num_inference_steps": 3, "guidance_scale": 2.0}
    limits = {"max_steps": 1000, "max_queued": 2, "max_upload_bytes": 200_000, "max_condition_megapixels": 1.0}
    tree = {"name": "tiny", "phases": phases, "sampling": sampling, "serve": limits | serve}
    return parse_recipe(tree | {"components": components or {}})


def tiny_pipeline(folder: Path) -> MMFacePipeline:
    """Random weights that answer differently to every input."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
    )
    tokenizer = _tokenizer(folder)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        projection_dim=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    transformer = MMFaceDiT(in_channels=8, hidden_size=64, depth=2, num_heads=4, text_embed_dim=16)
    for parameter in transformer.parameters():  # adaLN starts at zero, which would hide the inputs
        torch.nn.init.normal_(parameter, std=0.05)
    return MMFacePipeline(
        vae=vae.eval(),
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=tokenizer,
        transformer=transformer.eval(),
        scheduler=make_scheduler("flow", "euler"),
    )


def tiny_networks(root: Path) -> dict[str, str]:
    """Folders of a face parser and a sketcher that were never trained."""
    torch.manual_seed(1)
    parser = SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1] * 4, decoder_hidden_size=16, num_labels=19
    )
    SegformerForSemanticSegmentation(parser).save_pretrained(root / "parser")
    SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(root / "parser")
    U2Net().save_pretrained(root / "sketcher")
    return {name: str(root / name) for name in ("parser", "sketcher")}


def mask_png(side: int = 64) -> bytes:
    """A label-index mask with a head on cloth."""
    labels = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(labels)
    draw.rectangle((0, side * 3 // 4, side, side), fill=18)
    draw.ellipse((side // 4, side // 8, side * 3 // 4, side * 7 // 8), fill=1)
    return mask_to_png(np.asarray(labels))


def sketch_png(side: int = 64) -> bytes:
    """Dark lines on white."""
    sketch = Image.new("L", (side, side), 255)
    ImageDraw.Draw(sketch).ellipse((side // 4, side // 8, side * 3 // 4, side * 7 // 8), outline=0)
    return png(sketch)


def png(image: Image.Image) -> bytes:
    """``image`` as a PNG file."""
    sink = BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


def pixels(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A PNG file's pixels."""
    return np.asarray(Image.open(BytesIO(data)))


def _tokenizer(folder: Path) -> CLIPTokenizer:
    letters = [chr(code) for code in range(97, 123)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    made = CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=TOKENS)
    made.save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)
