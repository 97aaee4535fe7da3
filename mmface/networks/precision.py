"""Which dtype matrix products run in."""

from __future__ import annotations

import torch
from torch import nn

from mmface.config import Precision


def computes_in_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether they run in bfloat16: as the recipe says; ``auto`` where the device multiplies it natively."""
    if precision != "auto":
        return precision != "fp32"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def rows_are_alike(bf16: bool, device: torch.device) -> bool:
    """Whether the bits of a matrix product's row do not depend on how many rows are multiplied with it.

    On CPUs that holds in bfloat16 with AVX-512 alone: fp32 is summed in blocks that follow the number of rows, and
    so is bfloat16 on AMX tiles. Of GPUs nothing is claimed; there rows always share.
    """
    return device.type != "cpu" or (bf16 and not torch.cpu.get_capabilities().get("amx_bf16"))


def keep_in_bf16(module: nn.Module) -> None:
    """Turns the weights that autocast would cast at every use into bfloat16, for good: the same results, sooner.

    For inference alone: what autocast keeps in fp32 stays there, but the cast weights have lost bits.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            part.to(torch.bfloat16)
