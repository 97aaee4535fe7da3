"""bitsandbytes' AdamW with 8-bit moments (Dettmers et al., arXiv 2110.02861), in a state dict like torch's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from bitsandbytes.optim.adamw import AdamW
from torch import Tensor, nn


class AdamW8bit(AdamW):
    """Moments are quantised where the caller says so, not by the size of the tensor in hand, which may be a shard.

    Args:
        parameters: plain tensors, in one group.
        quantised: of each whether its moments are kept in 8 bits; the others' stay fp32.
        betas, weight_decay: as usual; the rate is set every step.
        paged: let moments move to the host when the GPU is full.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        quantised: Sequence[bool],
        *,
        betas: tuple[float, float],
        weight_decay: float,
        paged: bool,
    ) -> None:
        common = {"lr": 0.0, "betas": betas, "weight_decay": weight_decay}
        super().__init__(parameters, **common, optim_bits=8, min_8bit_size=0, is_paged=paged)  # type: ignore[no-untyped-call]
        self._quantised = tuple(quantised)

    def get_config(self, gindex: int, pindex: int, group: dict[str, Any]) -> dict[str, Any]:
        """What bitsandbytes asks before it makes or updates the moments of a parameter."""
        config: dict[str, Any] = super().get_config(gindex, pindex, group)  # type: ignore[no-untyped-call]
        return config | {"optim_bits": 8 if self._quantised[pindex] else 32}

    def update_step(self, group: dict[str, Any], p: nn.Parameter, gindex: int, pindex: int) -> None:
        """Updates one parameter; of an empty shard the steps alone are counted.

        A weight with fewer rows than there are ranks leaves some without any. bitsandbytes' CUDA kernels would be
        launched on no blocks there, which ends the process.
        """
        if p.numel():
            super().update_step(group, p, gindex, pindex)  # type: ignore[no-untyped-call]
        else:
            self.state[p]["step"] += 1

    def state_dict(self) -> dict[str, Any]:
        """In torch's form; bitsandbytes would nest the quantised tensors one level deeper."""
        return torch.optim.Optimizer.state_dict(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # type: ignore[override]  # moments stay in place
        """Copies into moments made the usual way, so that paged ones stay paged."""
        (group,), (saved,) = self.param_groups, state_dict["param_groups"]
        group.update({name: value for name, value in saved.items() if name != "params"})
        self.state.clear()
        for index, values in state_dict["state"].items():
            parameter = group["params"][index]
            self.init_state(group, parameter, 0, index)  # type: ignore[no-untyped-call]
            own = self.state[parameter]
            for name, value in values.items():
                if isinstance(value, Tensor):
                    own[name].copy_(value)
                else:
                    own[name] = value
