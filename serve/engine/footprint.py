"""How many images may be painted at once: limited by their number and by the memory they are predicted to take.

For the prediction the networks run once on fake tensors (:mod:`mmface.train.memory`) at the model's largest size, in
less than a second; smaller images are counted in proportion to their tokens. The prediction leaves out buffers that
kernels allocate: the default limit leaves room for them, and a limit that proves too high is lowered
(:meth:`Room.learn`).
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
from serve.engine.encodings import CACHED

if TYPE_CHECKING:
    from mmface.config import Serve
    from mmface.pipeline import MMFacePipeline
    from serve.engine.painting import Painting

log = logging.getLogger(__name__)

GIB = 2**30
CPU_SHARE = 0.5  # share of a machine's memory that its replicas may fill
LATENTS = 6  # latent-sized tensors per image: latents, estimate, the solver's earlier steps, the network's input
_ALLOCATION_FAILED = ("can't allocate memory", "out of memory", "ALLOC_FAILED")  # CPU, CUDA, cuBLAS and cuDNN


@dataclass(frozen=True)
class Footprint:
    """Bytes of memory that images take, weights not included.

    Attributes:
        row: activations of one row of a network evaluation at the largest size; with guidance an image has two rows.
        tokens: number of image and text tokens in that row.
        text_tokens: number of tokens in a prompt.
        multiple: side of an image token in pixels.
        latent: an image's latents, per image token.
        text: an encoded prompt.
        fixed: the autoencoder at the largest size, which gets one image at a time, and the cached encodings.
    """

    row: float
    tokens: int
    text_tokens: int
    multiple: int
    latent: float
    text: float
    fixed: float

    def image(self, width: int, height: int, rows: int) -> float:
        """Bytes of an image while it is painted: its latents and conditions, and the activations of its rows."""
        image_tokens = width * height // self.multiple**2
        latents, share = self.latent * image_tokens, (image_tokens + self.text_tokens) / self.tokens
        return LATENTS * latents + rows * (latents + self.text + self.row * share)


@dataclass
class Load:
    """Unfinished images, and the bytes that they are predicted to take."""

    images: int = 0
    bytes: float = 0.0


class Room:
    """Limits for the images that are painted at once. A single image always fits, whatever is predicted for it.

    Args:
        max_images: the largest number of images.
        footprint: of the model.
        limit: the most bytes that they may be predicted to take.
    """

    def __init__(self, max_images: int, footprint: Footprint, limit: float) -> None:
        self.max_images = max_images
        self.footprint = footprint
        self.limit = limit

    def load(self, paintings: Iterable[Painting]) -> Load:
        """The load of one image of each painting."""
        load = Load()
        for painting in paintings:
            self.add(load, painting)
        return load

    def add(self, load: Load, painting: Painting, images: int = 1) -> None:
        """Adds images of ``painting`` to ``load``; a negative number removes them."""
        load.images += images
        load.bytes += images * self._bytes(painting)

    def is_full(self, load: Load, painting: Painting) -> bool:
        """Whether another image of ``painting`` has to wait."""
        if load.images == 0:
            return False
        return load.images >= self.max_images or load.bytes + self._bytes(painting) > self.limit

    def learn(self, load: Load) -> None:
        """Lowers the limit to half of ``load``, with which memory ran out."""
        if 0 < load.bytes / 2 < self.limit:
            self.limit = load.bytes / 2
            message = "out of memory with %d images, predicted to take %.3f GiB; the limit is %.3f GiB from now on"
            log.warning(message, load.images, load.bytes / GIB, self.limit / GIB)

    def _bytes(self, painting: Painting) -> float:
        return self.footprint.image(painting.width, painting.height, painting.guidance.rows)


def room_for(pipeline: MMFacePipeline, pixels: int, settings: Serve) -> Room:
    """The limits, by ``settings`` and the pipeline's device, for images of up to ``pixels`` x ``pixels``."""
    footprint = predict_footprint(pipeline, pixels)
    if settings.max_memory_gib is not None:
        return Room(settings.max_batch, footprint, settings.max_memory_gib * GIB)
    return Room(settings.max_batch, footprint, default_limit(pipeline, settings) - footprint.fixed)


def predict_footprint(pipeline: MMFacePipeline, pixels: int) -> Footprint:
    """The footprint of images of up to ``pixels`` x ``pixels`` in ``pipeline``."""
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
        fixed=coding + CACHED * (latent_bytes * image_tokens + text_bytes),
    )


def default_limit(pipeline: MMFacePipeline, settings: Serve) -> float:
    """Bytes on the pipeline's device that one served version may use besides weights.

    Memory is kept free for the weights of every served version, and of one more that is loaded to replace another.
    """
    versions = 2 if settings.canary.alias else 1
    weights = sum(_weights(module) for module in pipeline.components.values() if isinstance(module, nn.Module))
    device = pipeline.transformer.device
    if device.type == "cuda":
        room = gpu_memory(device) - GPU_OVERHEAD.value
    else:
        room = CPU_SHARE * machine_memory() / (settings.max_replicas or settings.replicas)
    return (room - (versions + 1) * weights) / versions


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory could not be allocated, on any device."""
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
    """Peak bytes of ``run``, without the weights and the copies that autocast makes of them."""
    account = Account({"weights": 0.0, "weight copies": 0.0})
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), account:
        model = make()
        with account.doing("", "activations"):
            run(model)
    return account.fullest.get("activations", 0.0)
