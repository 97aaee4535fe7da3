"""How many images may be painted at once: by number, and by the bytes that they are predicted to take.

For the prediction the networks run once on fake tensors (:mod:`mmface.train.memory`) at the model's largest size, in
less than a second; smaller images take their share of that by tokens. Kernels' own buffers are not seen: the default
limit leaves room for them, and a limit that turns out too high is lowered (:meth:`Room.learn`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmface.estimate.hardware import GPU_OVERHEAD
from mmface.model import Conditioning, MMFaceDiT, predict
from mmface.networks.vae import decode, encode_moments, latent_channels, spatial_factor
from mmface.train.memory_account import Account
from mmface.train.memory_check import gpu_memory, machine_memory
from serve.engine.encodings import REMEMBERED

if TYPE_CHECKING:
    from mmface.config import Serve
    from mmface.pipeline import MMFacePipeline
    from serve.engine.defaults import Plan

log = logging.getLogger(__name__)

GIB = 2**30
CPU_SHARE = 0.5  # of a machine's memory that its replicas may fill
LATENTS = 6  # copies an image: its latents, its estimate, what solvers remember of earlier steps, the network's input
_ALLOCATION_FAILED = ("can't allocate memory", "out of memory", "ALLOC_FAILED")  # CPU, CUDA, cuBLAS and cuDNN


@dataclass(frozen=True)
class Footprint:
    """Bytes that images take beside the weights.

    Attributes:
        row: activations of one row of a network evaluation at the largest size; with guidance an image has two rows.
        tokens: of that row, the image's and the text's.
        text_tokens: of a prompt.
        multiple: pixels along the side of an image token.
        latent: of an image's latents, by image token.
        text: of an encoded prompt.
        fixed: of the autoencoder at the largest size, which sees one image at a time, and of remembered encodings.
    """

    row: float
    tokens: int
    text_tokens: int
    multiple: int
    latent: float
    text: float
    fixed: float

    def image(self, width: int, height: int, rows: int) -> float:
        """Of an image while it is painted: its latents and conditions, and the activations of its rows."""
        image_tokens = width * height // self.multiple**2
        latents, share = self.latent * image_tokens, (image_tokens + self.text_tokens) / self.tokens
        return LATENTS * latents + rows * (latents + self.text + self.row * share)


@dataclass
class Load:
    """Images under way, and the bytes that they are predicted to take."""

    images: int = 0
    bytes: float = 0.0


class Room:
    """What images under way may take together. One is always let in, whatever is predicted for it.

    Args:
        max_images: how many.
        footprint: of the model.
        limit: bytes.
    """

    def __init__(self, max_images: int, footprint: Footprint, limit: float) -> None:
        self.max_images = max_images
        self.footprint = footprint
        self.limit = limit

    def load(self, plans: Iterable[Plan]) -> Load:
        """Of one image of each plan."""
        load = Load()
        for plan in plans:
            self.add(load, plan)
        return load

    def add(self, load: Load, plan: Plan, images: int = 1) -> None:
        """Counts images of ``plan`` in; negative numbers count them out."""
        load.images += images
        load.bytes += images * self._bytes(plan)

    def is_full(self, load: Load, plan: Plan) -> bool:
        """Whether an image of ``plan`` has to wait."""
        if load.images == 0:
            return False
        return load.images >= self.max_images or load.bytes + self._bytes(plan) > self.limit

    def learn(self, load: Load) -> None:
        """This much ran out of memory: from now on half of it is the limit."""
        if 0 < load.bytes / 2 < self.limit:
            self.limit = load.bytes / 2
            message = "out of memory with %d images, predicted to take %.3f GiB; their limit is %.3f GiB from now on"
            log.warning(message, load.images, load.bytes / GIB, self.limit / GIB)

    def _bytes(self, plan: Plan) -> float:
        return self.footprint.image(plan.width, plan.height, 1 if plan.guidance_scale == 1 else 2)


def room_for(pipeline: MMFacePipeline, pixels: int, settings: Serve) -> Room:
    """The room that ``settings`` and the pipeline's device give to images of up to ``pixels`` x ``pixels``."""
    footprint = predict_footprint(pipeline, pixels)
    if settings.max_memory_gib is not None:
        return Room(settings.max_batch, footprint, settings.max_memory_gib * GIB)
    return Room(settings.max_batch, footprint, default_limit(pipeline, settings) - footprint.fixed)


def predict_footprint(pipeline: MMFacePipeline, pixels: int) -> Footprint:
    """What images of up to ``pixels`` x ``pixels`` take in ``pipeline``."""
    config, side = pipeline.text_encoder.config, pixels // spatial_factor(pipeline.vae)
    latent = latent_channels(pipeline.vae), side, side
    text = int(config.max_position_embeddings), int(config.hidden_size)
    image_tokens = (pixels // pipeline.size_multiple) ** 2
    latent_bytes, text_bytes = 4.0 * latent[0] * pipeline.transformer.patch_size**2, 4.0 * text[0] * text[1]
    masked = pipeline.config["text_padding"] == "masked"
    coding = _coding(type(pipeline.vae), _config(pipeline.vae), latent, pixels)
    return Footprint(
        row=_row(_config(pipeline.transformer), latent, text, pipeline.bf16, masked),
        tokens=image_tokens + text[0],
        text_tokens=text[0],
        multiple=pipeline.size_multiple,
        latent=latent_bytes,
        text=text_bytes,
        fixed=coding + REMEMBERED * (latent_bytes * image_tokens + text_bytes),
    )


def default_limit(pipeline: MMFacePipeline, settings: Serve) -> float:
    """Bytes of the pipeline's device that one version may fill beside weights.

    The weights of every version that is served are left out, and those of one that is loaded to replace another.
    """
    versions = 2 if settings.canary else 1
    weights = sum(_weights(module) for module in pipeline.components.values() if isinstance(module, nn.Module))
    device = pipeline.transformer.device
    if device.type == "cuda":
        room = gpu_memory(device) - GPU_OVERHEAD.value
    else:
        room = CPU_SHARE * machine_memory() / (settings.max_replicas or settings.replicas)
    return (room - (versions + 1) * weights) / versions


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be allocated, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _ALLOCATION_FAILED)


def _weights(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def _config(model: Any) -> str:
    return json.dumps({name: value for name, value in model.config.items() if not name.startswith("_")}, sort_keys=True)


@lru_cache
def _row(config: str, latent: tuple[int, int, int], text: tuple[int, int], bf16: bool, masked: bool) -> float:
    def evaluate(model: Any) -> Tensor:
        drawing, prompt = torch.empty(1, *latent), torch.empty(1, *text)
        mask = torch.ones(1, text[0], dtype=torch.bool) if masked else None
        conditioning = Conditioning(drawing, prompt, prompt[:, 0], torch.zeros(1, dtype=torch.long), mask)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return predict(model, torch.empty_like(drawing), torch.empty(1), conditioning)

    return _activations(lambda: MMFaceDiT.from_config(json.loads(config)), evaluate)


@lru_cache
def _coding(kind: Any, config: str, latent: tuple[int, int, int], pixels: int) -> float:
    def make() -> Any:
        return kind.from_config(json.loads(config))

    decoding = _activations(make, lambda vae: decode(vae, torch.empty(1, *latent)))
    return max(decoding, _activations(make, lambda vae: encode_moments(vae, torch.empty(1, 3, pixels, pixels))))


def _activations(make: Callable[[], Any], run: Callable[[Any], object]) -> float:
    """Bytes at the fullest moment of ``run``, without weights and the copies that autocast makes of them."""
    account = Account({"weights": 0.0, "weight copies": 0.0})
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), account:
        model = make()
        with account.doing("", "activations"):
            run(model)
    return account.fullest.get("activations", 0.0)
