"""The transformer, what it learns and how."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from mmface.config.section import Fraction, PositiveFloat, PositiveInt, Section

Objective = Literal["flow", "ddpm"]
Precision = Literal["fp32", "bf16", "bf16-pure", "auto"]


def _shares(value: object) -> object:
    """Before pydantic tries the forms one by one, whose names would stand in its message."""
    weights = value.values() if isinstance(value, dict) else ()
    if value not in ("none", "sources") and not (
        weights and all(isinstance(one, int | float) and 0 < one < math.inf for one in weights)
    ):
        raise ValueError("write none, sources, or {collection: weight, …} with weights above 0")
    return value


Balance = Annotated[Literal["none", "sources"] | dict[str, float], BeforeValidator(_shares)]


class Model(Section):
    """The trained transformer (§4); channels and text width follow from the components."""

    patch_size: PositiveInt = 2
    hidden_size: PositiveInt = 1152
    depth: PositiveInt = 28
    num_heads: PositiveInt = 16
    mlp_ratio: PositiveFloat = 4.0
    text_rope: Literal["sequential", "zero"] = "sequential"
    modality_embedder: bool = True
    dual_stream: bool = True
    rope: bool = True

    @model_validator(mode="after")
    def _head_dim(self) -> Model:
        # Rotary embedding splits a head into (row, column) halves of interleaved pairs.
        if self.hidden_size % (4 * self.num_heads):
            raise ValueError("hidden_size must be a multiple of 4 x num_heads (rotary halves of pairs)")
        return self


class ObjectiveConfig(Section):
    """What the transformer learns to predict (§5)."""

    name: Objective = "flow"
    timestep_sampling: Literal["uniform", "logit_normal"] = "uniform"
    min_snr_gamma: PositiveFloat | None = 5.0


class Phase(Section):
    """One stretch of training at one resolution; it starts from the previous phase's EMA.

    An epoch is every stored view of every training row (``data.views``) once. Above 512 pixels the stages store
    photographs and drawings as large as the largest phase needs.
    """

    resolution: Annotated[int, Field(ge=16, le=2048)]
    steps: PositiveInt | None = None
    epochs: PositiveFloat | None = None
    batch_size: PositiveInt = 32
    accumulation: PositiveInt = 1
    learning_rate: PositiveFloat = 1e-4
    final_learning_rate: Annotated[float, Field(ge=0)] = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _length(self) -> Phase:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs")
        if self.batch_size % self.accumulation:
            raise ValueError("batch_size (the effective one) must be a multiple of accumulation")
        return self

    def total_steps(self, rows: int) -> int:
        """Optimizer steps of this phase over ``rows`` training rows."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, round(self.epochs * rows / self.batch_size))


class Train(Section):
    """The optimiser and the machinery around it (§5).

    Attributes:
        parallel: what several workers hold: ``ddp`` each the whole model, ``fsdp`` each a part of every weight, its
            average and its moments.
        precision: ``bf16`` multiplies in bfloat16 and keeps fp32 weights; ``auto`` does so where the device
            multiplies it natively. ``bf16-pure`` keeps the weights, and torch's moments, in bfloat16 too (the average
            stays fp32): half the memory, but a step smaller than 1/512 of a weight is lost, so small rates stand still.
        gradient_checkpointing: which blocks forget their activations and compute them again in the backward pass:
            none, all, or the first so many.
        compile: run each block through torch.compile; needs a C++ compiler.
        optimizer: AdamW with full moments or bitsandbytes' 8-bit ones; ``-paged`` moves them to the host when the GPU
            is full.
    """

    parallel: Literal["ddp", "fsdp"] = "ddp"
    precision: Precision = "fp32"
    gradient_checkpointing: bool | PositiveInt = False
    compile: bool = False
    optimizer: Literal["adamw", "adamw8bit", "adamw8bit-paged"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    gradient_clip: PositiveFloat = 0.5
    ema_decay: Fraction = 0.9999
    start: Annotated[str, Field(min_length=1)] = "scratch"  # see mmface.bundles.weights
    balance: Balance = "none"  # see mmface.train.rows.balance
    condition_dropout: Fraction = 0.05
    text_dropout: Fraction = 0.05
    checkpoint_every: PositiveInt = 500
    keep_last: PositiveInt = 2  # checkpoints of a run; the last step's weights are published, then all are removed
    log_every: PositiveInt = 10
    num_workers: PositiveInt = 1
    min_workers: PositiveInt | None = None  # go on with fewer workers, down to this many, when some are lost
    use_gpu: bool = False

    @model_validator(mode="after")
    def _paged_on_gpu(self) -> Train:
        if self.optimizer == "adamw8bit-paged" and not self.use_gpu:
            raise ValueError("adamw8bit-paged pages out of a GPU: set use_gpu, or optimizer adamw8bit")
        return self

    @model_validator(mode="after")
    def _elastic(self) -> Train:
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError("min_workers must not be above num_workers")
        return self

    def recomputed_blocks(self, depth: int) -> int:
        """How many of a model's first blocks compute their activations again in the backward pass."""
        if isinstance(self.gradient_checkpointing, bool):
            return depth if self.gradient_checkpointing else 0
        return self.gradient_checkpointing
