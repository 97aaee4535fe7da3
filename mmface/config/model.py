"""Recipe sections about the transformer: its size, and what it learns to predict."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mmface.config.section import PositiveFloat, PositiveInt, Section

Objective = Literal["flow", "ddpm"]


class Model(Section):
    """Section ``model``: size and switches of the trained transformer (§4)."""

    patch_size: PositiveInt = Field(
        default=2,
        description="Side of a patch, in latent pixels; each patch is one image token. Half of it costs four times "
        "the tokens.",
    )
    hidden_size: PositiveInt = Field(
        default=1152, description="Width of a token (paper: 1152, §4). It must be a multiple of 4 x `num_heads`."
    )
    depth: PositiveInt = Field(default=28, description="Number of transformer blocks (paper: 28, §4).")
    num_heads: PositiveInt = Field(default=16, description="Attention heads in each block (paper: 16, §4).")
    mlp_ratio: PositiveFloat = Field(
        default=4.0, description="Width of a block's MLP as a multiple of `hidden_size` (paper: 4, §4)."
    )
    text_rope: Literal["sequential", "zero"] = Field(
        default="sequential",
        description="Rotary positions of text tokens. `sequential`: 1-D positions, as the paper describes; `zero`: "
        "all at (0, 0), as the released weights were trained with (§4).",
    )
    modality_embedder: bool = Field(
        default=True,
        description="Tell the model whether the drawing is a mask or a sketch by a learned embedding (paper: "
        "Model-2). Switch for ablations.",
    )
    dual_stream: bool = Field(
        default=True,
        description="Give image and text tokens weights of their own in each block (paper: Model-3). Switch for "
        "ablations; false: both share one stream.",
    )
    rope: bool = Field(
        default=True,
        description="Use rotary positions in attention (paper: Model-4). Switch for ablations; false: no positions.",
    )

    @model_validator(mode="after")
    def _heads_fit_rotary_positions(self) -> Model:
        # Rotary embedding splits a head into (row, column) halves of interleaved pairs.
        if self.hidden_size % (4 * self.num_heads):
            raise ValueError("hidden_size must be a multiple of 4 x num_heads (rotary halves of pairs)")
        return self


class ObjectiveConfig(Section):
    """Section ``objective``: the loss and its weights (§5)."""

    name: Objective = Field(
        default="flow",
        description="`flow`: rectified flow, the model predicts the velocity from noise to data; `ddpm`: it predicts "
        "the noise, with the 1000 steps of SD 2.1's schedule (§5).",
    )
    timestep_sampling: Literal["uniform", "logit_normal"] = Field(
        default="uniform",
        description="Distribution of the times at which `flow` is trained: `uniform` (paper), or `logit_normal`, "
        "which prefers the middle. Not used by `ddpm`.",
    )
    min_snr_gamma: PositiveFloat | None = Field(
        default=5.0,
        description="Limit g of the Min-SNR weight min(SNR, g) / SNR of `ddpm` (paper: 5, §5); null weighs all steps "
        "alike. Not used by `flow`.",
    )
