"""Loads the standard networks that measure images (recipe section ``metrics``): Inception v3, DINOv2 and LPIPS (§8).

Each is a hub id, a local folder, or for Inception and LPIPS one file with the public weights: ``.safetensors``, or
``.pth`` as its authors published it, of which only tensors are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.inception import (
    BasicConv2d,
    Inception3,
    InceptionA,
    InceptionAux,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
)

from mmface.networks.checks import DINO, INCEPTION, LPIPS, Role, require_model_type
from mmface.networks.components import CHECKPOINT, PICKLED, frozen
from mmface.networks.places import locate

SAFETENSORS = "model.safetensors"
INCEPTION_FILES = (
    SAFETENSORS,
    "pt_inception-2015-12-05-6726825d.pth",  # pytorch-fid
    "weights-inception-2015-12-05-6726825d.pth",  # torch-fidelity, torchmetrics: the same content
)
BACKBONES = {  # of LPIPS: the last layer with weights, and torchvision's file
    "vgg": ("features.28.weight", "vgg16-397923af.pth"),
    "squeeze": ("features.12.squeeze.weight", "squeezenet1_1-b8a52dc0.pth"),
    "alex": ("features.10.weight", "alexnet-owt-7be5be79.pth"),
}
INCEPTION_SIDE = 299


class InceptionFeatures(Inception3):  # type: ignore[misc]
    """Inception v3 as TensorFlow's FID computed it; images [B, 3, H, W] in [-1, 1] -> features [B, 2048].

    It differs from torchvision's in its weights (1008 classes), in averages that leave the padding out, and in a
    maximum instead of an average in the last block (mseitzer/pytorch-fid#16). Resizes as torchmetrics does: bilinear
    with antialiasing to 299 x 299, from whole numbers in 0..255.
    """

    def __init__(self) -> None:
        blocks = [BasicConv2d, _A, InceptionB, _C, InceptionD, _E, InceptionAux]
        super().__init__(num_classes=1008, aux_logits=False, init_weights=False, inception_blocks=blocks)
        self.Mixed_7c = _Last(2048)

    def forward(self, images: Tensor) -> Tensor:
        pixels = ((images + 1) * 127.5).round()
        size = (INCEPTION_SIDE, INCEPTION_SIDE)
        pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
        features: Tensor = self._forward((pixels - 128) / 128)[0]
        return features


class _Unpadded:
    """A block whose pooling branch averages over the pixels of the image only."""

    branch_pool: nn.Module

    def _forward(self, x: Tensor) -> list[Tensor]:
        *others, _ = super()._forward(x)  # type: ignore[misc]
        return [*others, self.branch_pool(self._pool(x))]

    def _pool(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class _A(_Unpadded, InceptionA): ...  # type: ignore[misc]


class _C(_Unpadded, InceptionC): ...  # type: ignore[misc]


class _E(_Unpadded, InceptionE): ...  # type: ignore[misc]


class _Last(_E):
    def _pool(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, stride=1, padding=1)


def load_inception(name: str) -> InceptionFeatures:
    """Inception v3 with the weights of the original FID.

    Raises:
        InputError: the files do not exist, or are of another network (also torchvision's ``inception_v3_google``, whose
            distances are no FIDs); names the recipe key. The other loaders of this module raise the same error.
    """
    with INCEPTION.refusing(name):
        state = _read(INCEPTION, name, INCEPTION_FILES)
        classes = len(state.get("fc.weight", ()))
        if classes != 1008:
            raise INCEPTION.refuse(name, f"it has {classes} classes, the network of the FID has 1008")
        with torch.device("meta"):
            model = InceptionFeatures()
        _fill(INCEPTION, name, model, state)
        model.fc = nn.Identity()
        model.eval().requires_grad_(False)
        return model


def load_dino(name: str) -> tuple[Any, Any]:
    """``(model, image_processor)`` of a Dinov2Model; the feature of an image is its ``pooler_output``."""
    from transformers import BitImageProcessor, Dinov2Model

    with DINO.refusing(name):
        place = locate(name)
        require_model_type(DINO, name, place)
        model = frozen(Dinov2Model, DINO, name, place)
        return model, BitImageProcessor.from_pretrained(place.path, **place.options)


def load_lpips(name: str) -> nn.Module:
    """LPIPS (arXiv 1801.03924) on the backbone ``name``: images [B, 3, H, W] in [-1, 1] twice -> [B, 1, 1, 1].

    The linear weights (version 0.1) come with torchmetrics; ``name`` gives torchvision's backbone.
    """
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    with LPIPS.refusing(name):
        state = _read(LPIPS, name, (SAFETENSORS, *(file for _, file in BACKBONES.values())))
        kind: Any = next((kind for kind, (last, _) in BACKBONES.items() if last in state), None)
        if kind is None:
            raise LPIPS.refuse(name, "its weights are of none of these networks")
        model = _NoTrainLpips(net=kind, pnet_rand=True)
        features = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
        # torchmetrics keeps the backbone's layers in slices: slice2.3.weight, or slices.1.3.squeeze.weight.
        places = {re.sub(r"^slices?\.?\d+\.", "", key): key for key in model.net.state_dict()}
        _fill(LPIPS, name, model.net, {places.get(key, key): value for key, value in features.items()})
        return model.eval().requires_grad_(False)


def _read(role: Role, name: str, known: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of a file that ``name`` is, or of the first of the ``known`` files in the place that it names."""
    file = Path(name) if name.endswith((CHECKPOINT, PICKLED)) else _file(role, name, known)
    if not file.is_file():
        raise role.refuse(name, f"there is no file {file}")
    try:
        if file.suffix == CHECKPOINT:
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, IndexError) as error:
        reason = str(error).strip().partition("\n")[0][:120]
        raise role.refuse(name, f"{file.name} cannot be read as tensors ({reason})") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise role.refuse(name, f"{file.name} is not a dict of tensors")
    return dict(state)


def _file(role: Role, name: str, known: Sequence[str]) -> Path:
    place = locate(name)
    found = next((file for file in known if place.has(file)), None)
    if found is None:
        raise role.refuse(name, f"it has none of the files {', '.join(known)}")
    if Path(place.path).is_dir():
        return place.folder / found
    from transformers.utils.hub import cached_file

    return Path(str(cached_file(place.path, found, **place.options)))


def _fill(role: Role, name: str, model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads all weights, and refuses missing, extra and unlike ones; old files lack BatchNorm's counter of batches."""
    own = model.state_dict()
    counters = {key: torch.tensor(0) for key in own if key.endswith("num_batches_tracked")}
    given = {**counters, **state}
    unlike = [key for key in own if key in given and own[key].shape != given[key].shape]
    for what, keys in (
        ("missing", own.keys() - given.keys()),
        ("extra", given.keys() - own.keys()),
        ("mismatched", unlike),
    ):
        if keys:
            raise role.refuse(name, f"{len(keys)} of its weights are {what} ({', '.join(sorted(keys)[:2])})")
    model.load_state_dict(given, assign=True)
