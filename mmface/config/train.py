"""Recipe sections about training: its phases, the optimizer and the workers."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from mmface.config.section import Fraction, PositiveFloat, PositiveInt, Section

Precision = Literal["fp32", "bf16", "bf16-pure", "auto"]


def _shares(value: object) -> object:
    """Checks ``train.balance`` before pydantic does, whose error would list each form of the value."""
    weights = value.values() if isinstance(value, dict) else ()
    if value not in ("none", "sources") and not (
        weights and all(isinstance(one, int | float) and 0 < one < math.inf for one in weights)
    ):
        raise ValueError("write none, sources, or {collection: weight, …} with weights above 0")
    return value


Balance = Annotated[Literal["none", "sources"] | dict[str, float], BeforeValidator(_shares)]


class Phase(Section):
    """One entry of ``phases``: training at one resolution (§5)."""

    resolution: Annotated[int, Field(ge=16, le=2048)] = Field(
        description="Side of the square pictures, in pixels. Above 512 all stages store photographs and drawings as "
        "large as the largest phase needs."
    )
    steps: PositiveInt | None = Field(
        default=None, description="Length of the phase in optimizer steps. Give exactly one of `steps` and `epochs`."
    )
    epochs: PositiveFloat | None = Field(
        default=None,
        description="Length of the phase in epochs; an epoch is every stored view of every training row once (see "
        "`data.views`). Give exactly one of `steps` and `epochs`.",
    )
    batch_size: PositiveInt = Field(
        default=32,
        description="Samples in one optimizer step, over all workers and all parts of `accumulation`; a multiple of "
        "`accumulation`.",
    )
    accumulation: PositiveInt = Field(
        default=1,
        description="Number of parts in which a batch is computed, one after the other. Raise it to train the same "
        "batch with less memory.",
    )
    learning_rate: PositiveFloat = Field(
        default=1e-4, description="Highest learning rate, reached at the end of the warm-up."
    )
    final_learning_rate: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="Learning rate at the last step; a cosine leads to it from `learning_rate`."
    )
    warmup_steps: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Optimizer steps over which the learning rate rises linearly to `learning_rate`; at most half of "
        "the phase is used.",
    )

    @model_validator(mode="after")
    def _has_one_length_and_whole_parts(self) -> Phase:
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
    """Section ``train``: settings that all phases share (§5)."""

    parallel: Literal["ddp", "fsdp"] = Field(
        default="ddp",
        description="What each of several workers holds. `ddp`: the whole model; `fsdp`: a shard of every weight, its "
        "average and its moments, for models that do not fit on one GPU.",
    )
    precision: Precision = Field(
        default="fp32",
        description="Number format. `bf16`: matrix products in bfloat16, weights in fp32; `auto`: `bf16` where the "
        "device multiplies it natively, else `fp32`; `bf16-pure`: weights and torch's moments in bfloat16 too (the "
        "average stays fp32): half the memory, but updates below 1/512 of a weight are lost, so small learning rates "
        "learn nothing.",
    )
    gradient_checkpointing: bool | PositiveInt = Field(
        default=False,
        description="Which blocks drop their activations and recompute them in the backward pass: false: none; true: "
        "all; a number: that many, from the first. It saves memory, costs time and does not change the result.",
    )
    compile: bool = Field(default=False, description="Run each block through torch.compile; needs a C++ compiler.")
    optimizer: Literal["adamw", "adamw8bit", "adamw8bit-paged"] = Field(
        default="adamw",
        description="AdamW with full moments, or with the 8-bit moments of bitsandbytes (paper: 8-bit). "
        "`adamw8bit-paged` moves them to the host's memory when the GPU is full, and needs `use_gpu`.",
    )
    betas: tuple[float, float] = Field(
        default=(0.9, 0.999), description="Decay of AdamW's first and second moment (paper: 0.9 and 0.999, §5)."
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        default=0.01, description="Weight decay of AdamW (paper: 0.01, §5)."
    )
    gradient_clip: PositiveFloat = Field(
        default=0.5, description="Largest norm of the gradient; larger ones are scaled down to it (paper: 0.5, §5)."
    )
    ema_decay: Fraction = Field(
        default=0.9999,
        description="Decay of the moving average of the weights (EMA), which is what is evaluated and served (paper: "
        "0.9999, §5). It starts lower, at (1 + step) / (10 + step); short runs want a smaller value.",
    )
    start: Annotated[str, Field(min_length=1)] = Field(
        default="scratch",
        description="Weights that the first phase starts from: `scratch` (random), a released checkpoint (file, "
        "folder or hub id), the folder of a bundle, `models:/NAME@ALIAS`, or `zoo:base`, which was trained on drawn "
        "portraits. Weights of another architecture, VAE or text encoder are refused before anything is computed.",
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = Field(
        default=None,
        description="Seed of initial weights, sample order, dropout and noise; null: the recipe's `seed`. Another "
        "value trains another model on the same data, and paints the same evaluation rows from the same noise.",
    )
    balance: Balance = Field(
        default="none",
        description="Share of each collection in the batches. `none`: every row equally often; `sources`: every "
        "collection equally often; or a weight above 0 for each collection, `{ours: 3, celeba: 1}`. Shares are kept "
        "to 1/1000, and each collection runs through its own epochs.",
    )
    condition_dropout: Fraction = Field(
        default=0.05,
        description="Share of samples whose drawing is replaced by a zero latent, drawn independently of "
        "`text_dropout` (paper: 0.05, §4).",
    )
    text_dropout: Fraction = Field(
        default=0.05,
        description="Share of samples whose caption is replaced by the empty prompt; classifier-free guidance needs "
        "it (paper: 0.05, §4).",
    )
    checkpoint_every: PositiveInt = Field(
        default=500,
        description="Optimizer steps between two checkpoints, from which a stopped run resumes. It does not change "
        "the result.",
    )
    keep_last: PositiveInt = Field(
        default=2,
        description="Checkpoints to keep while a phase trains, the newest ones. After its last step the weights are "
        "published and all checkpoints are removed.",
    )
    log_every: PositiveInt = Field(
        default=10, description="Optimizer steps between two lines of metrics in the log and in MLflow."
    )
    num_workers: PositiveInt = Field(
        default=1,
        description="Workers (processes) that share each global batch; with `use_gpu` each has a GPU. Any number sees "
        "the same global batches.",
    )
    min_workers: PositiveInt | None = Field(
        default=None,
        description="Smallest number of workers to resume with when some are lost, at most `num_workers`; null: wait "
        "until all `num_workers` are there.",
    )
    use_gpu: bool = Field(default=False, description="Train on GPUs, one for each worker.")

    @model_validator(mode="after")
    def _pages_out_of_a_gpu(self) -> Train:
        if self.optimizer == "adamw8bit-paged" and not self.use_gpu:
            raise ValueError("adamw8bit-paged pages out of a GPU: set use_gpu, or optimizer adamw8bit")
        return self

    @model_validator(mode="after")
    def _worker_counts_are_ordered(self) -> Train:
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError("min_workers must not be above num_workers")
        return self

    def recomputed_blocks(self, depth: int) -> int:
        """How many of a model's first blocks compute their activations again in the backward pass."""
        if isinstance(self.gradient_checkpointing, bool):
            return depth if self.gradient_checkpointing else 0
        return self.gradient_checkpointing
