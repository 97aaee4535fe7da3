"""Chooses the dtype of matrix products."""

from __future__ import annotations

import torch
from torch import nn

from mmface.config import Precision


def computes_in_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether matrix products run in bfloat16: as the recipe says; with ``auto`` if the device supports it natively."""
    if precision != "auto":
        return precision != "fp32"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def rows_are_alike(bf16: bool, device: torch.device) -> bool:
    """Whether rows may share a matrix product: on CPUs, whether a row's bits do not depend on the number of rows.

    On CPUs that holds only for bfloat16 with AVX-512 and without AMX: for fp32, and for bfloat16 on AMX tiles, the
    order of summation depends on the number of rows. On GPUs rows always share a product, without a promise about bits.
    """
    return device.type != "cpu" or (bf16 and not torch.cpu.get_capabilities().get("amx_bf16"))


def keep_in_bf16(module: nn.Module) -> None:
    """Converts the weights that autocast would cast at every use to bfloat16 once: the same results, faster.

    For inference only, since the converted weights lose precision. What autocast keeps in fp32 stays in fp32.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            part.to(torch.bfloat16)
