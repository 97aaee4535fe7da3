"""The recipe: one frozen tree that says everything a retraining does.

A recipe is a short YAML file over the defaults below (:mod:`mmface.recipes` reads it). Unknown keys are refused. The
resolved recipe is saved beside every artifact. Figures of the paper are named where they stand (§ = DESIGN).
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from mmface.data.caption_prompts import PROMPTS

Objective = Literal["flow", "ddpm"]
Sampler = Literal["euler", "heun", "dpmpp", "unipc"]
TextPadding = Literal["exact", "trimmed"]  # see mmface.text
Layout = Literal["folder", "ffhq", "celebamask-hq", "parquet", "authors"]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
RowStage = Annotated[str, Field(pattern=r"^(images|conditions|captions|text|latents-\d+)$")]

OWN_SIDECARS: dict[Layout, tuple[str, ...]] = {
    "folder": (),
    "ffhq": (),
    "celebamask-hq": ("masks",),
    "parquet": ("masks", "captions"),
    "authors": ("masks", "captions"),
}


def _ordered(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError("give [lowest, highest]")
    return limits


Limits = Annotated[tuple[Fraction, Fraction], AfterValidator(_ordered)]


class Section(BaseModel):
    """A frozen part of the recipe; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Portraits(Section):
    """The drawn collection that stands in when ``sources`` is empty."""

    n: PositiveInt = 400
    size: Annotated[int, Field(ge=32, le=1024)] = 128


class Collection(Section):
    """One collection of photographs: where it is, what it is called, and under which licence it may be used.

    ``images`` is a folder or ``s3://`` prefix. ``masks`` (a folder), ``captions`` (a ``.jsonl`` file, or a folder with
    one ``.txt`` a picture) and ``split`` (a folder with ``train.txt``, ``val.txt``, ``test.txt``) are optional; a
    layout that brings its own refuses them. See :mod:`mmface.data.sources`.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    licence: Annotated[str, Field(min_length=1)] = "not stated"
    layout: Layout = "folder"
    images: Annotated[str, Field(min_length=1)]
    masks: str | None = None
    captions: str | None = None
    split: str | None = None

    @model_validator(mode="after")
    def _brings_its_own(self) -> Collection:
        for name in OWN_SIDECARS[self.layout]:
            if getattr(self, name) is not None:
                raise ValueError(f"layout {self.layout} brings its own {name}; leave {name} out")
        return self


class Quality(Section):
    """Usual figures of a picture, as shares; a row outside of one is flagged as an outlier and kept."""

    face_area: Limits = (0.05, 0.8)
    label_coverage: Limits = (0.25, 1.0)
    edge_density: Limits = (0.001, 0.4)


class Data(Section):
    """Preparation: what is kept, what is set aside, how rows are grouped."""

    min_size: PositiveInt = 64
    max_megapixels: PositiveFloat = 40.0
    near_duplicate_bits: Annotated[int, Field(ge=0, le=16)] = 0
    min_face_area: Fraction = 0.0  # share of the centre square that the mask calls face
    holdout: Fraction = 0.15
    max_quarantined: Fraction = 0.01
    shard_rows: PositiveInt = 64
    workers: PositiveInt = 2
    captions_per_image: Annotated[int, Field(ge=1, le=20)] = 10
    parse_flip: bool = False
    quality: Quality = Quality()
    mask_resize: Literal["nearest", "lanczos"] = "nearest"
    text_padding: TextPadding = "exact"
    replay: dict[RowStage, PositiveInt] = {}  # further attempts at rows set aside; mmface quarantine replay counts them


class Components(Section):
    """Frozen networks by hub id, local folder or ``zoo:<name>`` (§7)."""

    vae: str = "zoo:vae"
    text_encoder: str = "zoo:clip"
    clip: str = "zoo:clip"
    parser: str = "zoo:parser"
    sketcher: str = "zoo:sketch"
    captioner: str = "facts"
    rewriter: str | None = None

    @model_validator(mode="after")
    def _rewriter(self) -> Components:
        if self.rewriter is not None and self.captioner == "facts":
            raise ValueError("rewriter has nothing to rewrite: measured facts agree; set captioner to a model")
        return self


class Captioning(Section):
    """How a captioning model is asked and what its answers must be (paper §3.1). Measured facts ask nothing."""

    prompts: Annotated[tuple[Annotated[str, Field(pattern=r"\S")], ...], Field(min_length=1)] = PROMPTS
    max_new_tokens: PositiveInt = 128
    min_words: PositiveInt = 4
    retries: Annotated[int, Field(ge=0, le=5)] = 2
    batch_size: PositiveInt = 8
    engine: Literal["transformers", "vllm"] = "transformers"


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
    """One stretch of training at one resolution; it starts from the previous phase's EMA."""

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
    """The optimiser and the machinery around it (§5)."""

    precision: Literal["fp32", "bf16", "auto"] = "fp32"  # auto: bf16 where the device multiplies it natively
    gradient_checkpointing: bool = False
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    gradient_clip: PositiveFloat = 0.5
    ema_decay: Fraction = 0.9999
    condition_dropout: Fraction = 0.05
    text_dropout: Fraction = 0.05
    checkpoint_every: PositiveInt = 500
    log_every: PositiveInt = 10
    num_workers: PositiveInt = 1
    use_gpu: bool = False


class Sampling(Section):
    """How pictures are made in evaluation and by default in serving."""

    sampler: Sampler = "euler"
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] = 20
    guidance_scale: Annotated[float, Field(ge=0)] = 2.0


class Evaluate(Section):
    """Which held-out rows are painted and measured."""

    n: PositiveInt = 128
    n_sketch: PositiveInt = 64
    batch_size: PositiveInt = 16
    grid: PositiveInt = 16


class Gate(Section):
    """Thresholds a candidate must pass to become champion. ``None`` does not ask."""

    min_mask_miou: Fraction | None = None
    min_mask_accuracy: Fraction | None = None
    min_hair_colour: Fraction | None = None
    max_clip_distance: float | None = None
    min_edge_agreement_gain: float | None = None
    max_frechet_ratio_to_champion: PositiveFloat | None = None


class Serve(Section):
    """The HTTP service (§9)."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    model_name: str = "mmface-dit"
    alias: str = "champion"
    max_batch: PositiveInt = 8
    max_queued: PositiveInt = 32
    max_upload_bytes: PositiveInt = 8_000_000
    max_condition_megapixels: PositiveFloat = 40.0
    max_steps: PositiveInt = 100
    timeout_s: PositiveFloat = 120.0
    replicas: PositiveInt = 1
    use_gpu: bool = False


class Recipe(Section):
    """The whole of it."""

    name: str = "recipe"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    sources: tuple[Collection, ...] = ()
    portraits: Portraits = Portraits()
    data: Data = Data()
    components: Components = Components()
    captioning: Captioning = Captioning()
    model: Model = Model()
    objective: ObjectiveConfig = ObjectiveConfig()
    phases: tuple[Phase, ...] = Field(default=(Phase(resolution=256, epochs=300),), min_length=1)
    train: Train = Train()
    sampling: Sampling = Sampling()
    evaluate: Evaluate = Evaluate()
    gate: Gate = Gate()
    serve: Serve = Serve()

    @model_validator(mode="after")
    def _enough_prompts(self) -> Recipe:
        wanted, given = self.data.captions_per_image, len(self.captioning.prompts)
        if self.components.captioner != "facts" and given < wanted:
            raise ValueError(f"captioning.prompts: {given} prompts for data.captions_per_image {wanted}; give as many")
        return self

    @model_validator(mode="after")
    def _names(self) -> Recipe:
        names = [collection.name for collection in self.sources]
        if len(set(names)) < len(names):
            raise ValueError(f"every collection in sources needs a name of its own: {', '.join(names)}")
        return self

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Every resolution that needs latents, smallest first."""
        return tuple(sorted({phase.resolution for phase in self.phases}))

    def to_yaml(self) -> str:
        """The resolved recipe, every key spelled out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def fingerprint(*parts: object) -> str:
    """Sixteen hex digits over canonical JSON: equal parts give equal names on any machine (§6)."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=_canonical)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _canonical(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"not canonical: {type(value)}")
