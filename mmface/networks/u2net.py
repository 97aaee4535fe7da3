"""U²-Net (Qin et al., 2020, arXiv 2005.09007), full and lite, with the state-dict keys of the public checkpoints.

Shape letters: B batch, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from mmface.errors import InputError


class Stage(NamedTuple):
    """Sizes of one residual U-block; ``height`` 0 is the dilated block without pooling (RSU-4F)."""

    name: str
    height: int
    inside: int
    middle: int
    outside: int


_HEIGHTS = {"stage1": 7, "stage2": 6, "stage3": 5, "stage4": 4, "stage5": 0, "stage6": 0}
_HEIGHTS |= {"stage5d": 0, "stage4d": 4, "stage3d": 5, "stage2d": 6, "stage1d": 7}
FULL = (
    (3, 32, 64), (64, 32, 128), (128, 64, 256), (256, 128, 512), (512, 256, 512), (512, 256, 512),
    (1024, 256, 512), (1024, 128, 256), (512, 64, 128), (256, 32, 64), (128, 16, 64),
)  # fmt: skip
LITE = ((3, 16, 64), *(5 * [(64, 16, 64)]), *(5 * [(128, 16, 64)]))  # U2NETP


def _up(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


class ConvBlock(nn.Module):
    """3x3 convolution, batch norm, ReLU."""

    def __init__(self, inside: int, outside: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv_s1 = nn.Conv2d(inside, outside, 3, padding=dilation, dilation=dilation)
        self.bn_s1 = nn.BatchNorm2d(outside)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inside, H, W] → [B, outside, H, W]."""
        out: Tensor = F.relu(self.bn_s1(self.conv_s1(x)), inplace=True)
        return out


class ResidualU(nn.Module):
    """RSU-L: a U-Net of ``height`` levels whose output is added to its input projection (figure 2 of the paper).

    State-dict keys: ``rebnconvin``, ``rebnconv1`` … ``rebnconvL`` downwards, ``rebnconv{L-1}d`` … ``rebnconv1d``
    upwards.
    """

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        levels = stage.height or 4
        self.levels, self.pooled = levels, stage.height > 0
        dilations = [1] * (levels - 1) + [2] if self.pooled else [1, 2, 4, 8]
        middle = stage.middle
        self.rebnconvin = ConvBlock(stage.inside, stage.outside)
        for i, dilation in enumerate(dilations, start=1):
            inside = stage.outside if i == 1 else middle
            self.add_module(f"rebnconv{i}", ConvBlock(inside, middle, dilation))
        for i in range(levels - 1, 0, -1):
            dilation = 1 if self.pooled else dilations[i - 1]
            self.add_module(f"rebnconv{i}d", ConvBlock(2 * middle, middle if i > 1 else stage.outside, dilation))

    def forward(self, x: Tensor) -> Tensor:
        """[B, inside, H, W] → [B, outside, H, W]."""
        entry = self.rebnconvin(x)
        down, h = [], entry
        for i in range(1, self.levels):
            h = self.get_submodule(f"rebnconv{i}")(h)
            down.append(h)
            if self.pooled and i < self.levels - 1:
                h = F.max_pool2d(h, 2, 2, ceil_mode=True)
        h = self.get_submodule(f"rebnconv{self.levels}")(h)
        for i in range(self.levels - 1, 0, -1):
            skip = down[i - 1]
            h = self.get_submodule(f"rebnconv{i}d")(torch.cat([_up(h, skip), skip], dim=1))
        out: Tensor = h + entry
        return out


class U2Net(ModelMixin, ConfigMixin):
    """Nested U-Net that maps a photograph to one map of the same size.

    Args:
        plan: (in, middle, out) channels of the eleven stages: :data:`FULL` (44.0 M parameters), :data:`LITE` (1.13 M).
        image_mean, image_std: normalisation of pixels in 0..1; the public checkpoints need those of ImageNet.
        dark_lines: return 1 - map, which gives dark lines on white paper, as the authors' portrait script does.
    """

    config_name = "config.json"  # type: ignore[assignment]

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        plan: Sequence[Sequence[int]] = LITE,
        image_mean: Sequence[float] = (0.485, 0.456, 0.406),
        image_std: Sequence[float] = (0.229, 0.224, 0.225),
        dark_lines: bool = True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        for (name, height), (inside, middle, outside) in zip(_HEIGHTS.items(), plan, strict=True):
            self.add_module(name, ResidualU(Stage(name, height, inside, middle, outside)))
        ends = [plan[i][2] for i in (10, 9, 8, 7, 6, 5)]
        for i, channels in enumerate(ends, start=1):
            self.add_module(f"side{i}", nn.Conv2d(channels, 1, 3, padding=1))
        self.outconv = nn.Conv2d(6, 1, 1)

    @classmethod
    def from_checkpoint(cls, path: Path) -> U2Net:
        """Loads a safetensors file with the keys of a public checkpoint; tells full from lite by the shapes.

        Raises:
            InputError: the file does not exist, or its tensors are not exactly those of a U²-Net.
        """
        try:
            state = load_file(path)
            model: U2Net = cls(plan=[_channels(state, name) for name in _HEIGHTS])
            model.load_state_dict(state)
        except FileNotFoundError:
            raise InputError(f"no file {path}; give an existing file", field="components.sketcher") from None
        except (SafetensorError, KeyError, RuntimeError) as error:
            reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
            remedy = "save the state dict of a public checkpoint as safetensors"
            raise InputError(f"{path} is not a U²-Net ({reason}); {remedy}", field="components.sketcher") from error
        return model

    def logits(self, pixels: Tensor) -> list[Tensor]:
        """The fused map and the six side maps before the sigmoid, each [B, 1, H, W]; for deep supervision.

        Args:
            pixels: [B, 3, H, W] in 0..1.
        """
        config: Any = self.config
        mean, std = (pixels.new_tensor(list(v)).view(3, 1, 1) for v in (config.image_mean, config.image_std))
        h = (pixels - mean) / std
        skips: list[Tensor] = []
        for i in range(1, 7):
            if skips:
                h = F.max_pool2d(h, 2, 2, ceil_mode=True)
            h = self.get_submodule(f"stage{i}")(h)
            skips.append(h)
        decoded = [skips.pop()]
        while skips:
            skip = skips.pop()
            stage = self.get_submodule(f"stage{len(skips) + 1}d")
            decoded.append(stage(torch.cat([_up(decoded[-1], skip), skip], dim=1)))
        sides: list[Any] = [self.get_submodule(f"side{i}")(d) for i, d in enumerate(reversed(decoded), start=1)]
        sides = [_up(side, sides[0]) for side in sides]
        return [self.outconv(torch.cat(sides, dim=1)), *sides]

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in 0..1 → map [B, 1, H, W] in 0..1."""
        fused = torch.sigmoid(self.logits(pixels)[0])
        config: Any = self.config
        return 1 - fused if config.dark_lines else fused


def _channels(state: Mapping[str, Tensor], name: str) -> tuple[int, int, int]:
    entry, first = (state[f"{name}.{block}.conv_s1.weight"] for block in ("rebnconvin", "rebnconv1"))
    return entry.shape[1], first.shape[0], entry.shape[0]
