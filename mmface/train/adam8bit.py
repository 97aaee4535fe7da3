"""bitsandbytes' AdamW with 8-bit moments (Dettmers et al., arXiv 2110.02861) and a state dict in torch's form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from bitsandbytes.optim.adamw import AdamW
from torch import Tensor, nn


class AdamW8bit(AdamW):
    """AdamW whose caller chooses the parameters with 8-bit moments.

    bitsandbytes would choose by the size of the tensor that it sees, which may be a shard.

    Args:
        parameters: plain tensors, in one group.
        quantised: for each parameter, whether its moments have 8 bits; otherwise they are fp32.
        betas, weight_decay: as usual; the learning rate is set every step.
        paged: move moments to the host when the GPU is full.
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
        """Settings of one parameter; bitsandbytes reads them before it creates or updates its moments."""
        config: dict[str, Any] = super().get_config(gindex, pindex, group)  # type: ignore[no-untyped-call]
        return config | {"optim_bits": 8 if self._quantised[pindex] else 32}

    def update_step(self, group: dict[str, Any], p: nn.Parameter, gindex: int, pindex: int) -> None:
        """Updates one parameter; for an empty shard it only counts the step.

        If a weight has fewer rows than there are ranks, some ranks get an empty shard. bitsandbytes would launch its
        CUDA kernel with zero blocks for it, which ends the process.
        """
        if p.numel():
            super().update_step(group, p, gindex, pindex)  # type: ignore[no-untyped-call]
        else:
            self.state[p]["step"] += 1

    def state_dict(self) -> dict[str, Any]:
        """The state in torch's form; bitsandbytes would nest the quantised tensors one level deeper."""
        return torch.optim.Optimizer.state_dict(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # type: ignore[override]  # moments stay in place
        """Creates the moments as bitsandbytes does and copies into them, so that paged moments stay paged."""
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
