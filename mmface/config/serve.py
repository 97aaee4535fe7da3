"""How pictures are painted, judged and served."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mmface.config.section import Fraction, PositiveFloat, PositiveInt, Section

Sampler = Literal["euler", "heun", "dpmpp", "unipc"]


class Sampling(Section):
    """How pictures are made in evaluation and by default in serving."""

    sampler: Sampler = "euler"
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] = 20
    guidance_scale: Annotated[float, Field(ge=0)] = 2.0
    precision: Literal["fp32", "bf16", "auto"] = "auto"  # of the transformer; see mmface.networks.precision


class Evaluate(Section):
    """Which held-out rows are painted and measured.

    Attributes:
        batch_size: how many pictures are painted at once, at most the 32 of a part; it does not change them.
    """

    n: PositiveInt = 128
    n_sketch: PositiveInt = 64
    batch_size: PositiveInt = 16
    grid: PositiveInt = 16


class Gate(Section):
    """Thresholds a candidate must pass to become champion. ``None`` does not ask.

    Attributes:
        max_frechet_ratio_to_champion: of the candidate's Fréchet distance to the champion's. A candidate whose distance
            was measured on other rows, at another resolution or with other weights than the champion's is refused.
    """

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
    follow_s: PositiveFloat = 5.0  # how often replicas look where the alias points
    max_preview_error: PositiveFloat = 4.0  # mean difference, 0 ... 255, from the registered preview
    canary: str | None = None  # an alias that answers canary_share of the seeds
    canary_share: Fraction = 0.05
    max_batch: PositiveInt = 8  # images that a replica denoises at once
    # GiB that those may take beside the weights, as serve.footprint predicts from their shapes. By default what a GPU
    # has beside the weights of the served versions, or half of a machine's memory divided by its replicas. One image is
    # always let in.
    max_memory_gib: PositiveFloat | None = None
    max_queued: PositiveInt = 32
    max_upload_bytes: PositiveInt = 8_000_000
    upload_timeout_s: PositiveFloat = 30.0  # within which a body must have arrived
    max_condition_megapixels: PositiveFloat = 40.0
    max_steps: PositiveInt = 100
    timeout_s: PositiveFloat = 120.0
    replicas: PositiveInt = 1
    max_replicas: PositiveInt | None = None  # more than replicas when more than max_batch requests wait for each
    use_gpu: bool = False
    api_keys_env: str | None = None  # the variable that holds NAME:SHA256 of each key, separated by commas
    requests_per_minute: PositiveInt | None = None  # of each key
    cors_origins: tuple[str, ...] = ()  # whose pages may call the service from a browser; "*" for all
    log_prompts: bool = False
    traces: str | None = None  # where spans of requests go: an OTLP address, http://HOST:4318/v1/traces
    watermark: bool = False  # an invisible mark in every picture; mmface watermark check finds it

    @model_validator(mode="after")
    def _limits_have_keys(self) -> Serve:
        if self.requests_per_minute is not None and self.api_keys_env is None:
            raise ValueError("serve.requests_per_minute counts by key: set serve.api_keys_env too")
        return self

    @model_validator(mode="after")
    def _scales_up(self) -> Serve:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError("max_replicas must not be below replicas")
        return self
