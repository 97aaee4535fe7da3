"""Recipe sections about painting: the sampler and the HTTP service."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mmface.config.section import Fraction, PositiveFloat, PositiveInt, Section

Sampler = Literal["euler", "heun", "dpmpp", "unipc"]


class Sampling(Section):
    """Section ``sampling``: settings of the sampler."""

    sampler: Sampler = Field(
        default="euler",
        description="Method that integrates from noise to picture: `euler`, `heun` (two evaluations in each step), "
        "`dpmpp` (DPM-Solver++) or `unipc`.",
    )
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=20, description="Denoising steps of a picture; more steps take longer and are more exact."
    )
    guidance_scale: Annotated[float, Field(ge=0)] = Field(
        default=2.0,
        description="Strength of classifier-free guidance towards the prompt; 1 turns it off and halves the time "
        "(authors: 7.5).",
    )
    precision: Literal["fp32", "bf16", "auto"] = Field(
        default="auto",
        description="Number format of the transformer's matrix products. `auto`: bf16 where the device multiplies it "
        "natively, else fp32.",
    )


class Serve(Section):
    """Section ``serve``: settings of the HTTP service (§9)."""

    host: str = Field(
        default="127.0.0.1",
        description="Address that the service listens on; `0.0.0.0` listens on all addresses of the machine.",
    )
    port: Annotated[int, Field(ge=1, le=65535)] = Field(
        default=8000, description="TCP port that the service listens on."
    )
    model_name: str = Field(
        default="mmface-dit",
        description="Name of the registered model in MLflow, both for registering and for serving.",
    )
    alias: str = Field(default="champion", description="Alias of the version to serve.")
    follow_s: PositiveFloat = Field(
        default=5.0,
        description="Time between two looks at the alias, in seconds. When it points to another version, replicas "
        "load that version without a restart.",
    )
    max_preview_error: PositiveFloat = Field(
        default=4.0,
        description="Largest mean difference, on the scale 0 to 255, between the preview registered with a version "
        "and the same preview painted by a replica. A version above it is refused.",
    )
    canary: str | None = Field(
        default=None,
        description="A second alias whose version answers `canary_share` of the requests; null: no canary.",
    )
    canary_share: Fraction = Field(
        default=0.05,
        description="Share of seeds that the canary answers. The same seeds always go to the canary.",
    )
    max_batch: PositiveInt = Field(
        default=8,
        description="Images that a replica denoises at the same time; more give more throughput and need more memory.",
    )
    max_memory_gib: PositiveFloat | None = Field(
        default=None,
        description="Memory that images may take at the same time beside the weights, in GiB, predicted from their "
        "shapes; one image is always accepted. null: what a GPU has left beside the served versions, or half of the "
        "machine's memory divided by its replicas.",
    )
    max_queued: PositiveInt = Field(
        default=32, description="Requests that may wait at a replica; further ones get 429 with `Retry-After`."
    )
    max_upload_bytes: PositiveInt = Field(
        default=8_000_000, description="Largest body of a request, in bytes; a larger one gets 413."
    )
    upload_timeout_s: PositiveFloat = Field(
        default=30.0, description="Time within which the body of a request must have arrived, in seconds."
    )
    max_condition_megapixels: PositiveFloat = Field(
        default=40.0, description="Largest uploaded drawing or photograph, in millions of pixels."
    )
    max_steps: PositiveInt = Field(
        default=100, description="Largest number of denoising steps that a request may ask for."
    )
    timeout_s: PositiveFloat = Field(
        default=120.0, description="Deadline of a request, in seconds; after it the client gets 408 and the work stops."
    )
    replicas: PositiveInt = Field(
        default=1, description="Number of replicas (processes with the model); with `max_replicas` the smallest number."
    )
    max_replicas: PositiveInt | None = Field(
        default=None,
        description="Largest number of replicas. Ray Serve adds some when more than `max_batch` requests wait for "
        "each; null: always `replicas`.",
    )
    use_gpu: bool = Field(default=False, description="Give each replica a GPU.")
    api_keys_env: str | None = Field(
        default=None,
        description="Name of the environment variable that holds `NAME:SHA256` of each API key, separated by commas. "
        "null: the service asks for no key.",
    )
    requests_per_minute: PositiveInt | None = Field(
        default=None,
        description="Largest number of requests per minute with one API key; further ones get 429. Needs "
        "`api_keys_env`.",
    )
    cors_origins: tuple[str, ...] = Field(
        default=(), description='Origins whose pages may call the service from a browser; `"*"` for all.'
    )
    log_prompts: bool = Field(default=False, description="Write prompts to the access log.")
    prompt_counts_s: PositiveFloat | None = Field(
        default=None,
        description="Time between two files of prompt counts in the home, in seconds, by which the flow `watch` "
        "measures drift of prompts. They count hashed words of groups of 16 prompts and hold no text. null: nothing "
        "of a prompt is kept.",
    )
    traces: str | None = Field(
        default=None,
        description="OTLP address that spans of requests are sent to, such as `http://HOST:4318/v1/traces`; needs "
        "`pip install 'mmface[traces]'`. null: none.",
    )
    watermark: bool = Field(
        default=False, description="Put an invisible mark into every picture; `mmface watermark check` finds it."
    )

    @model_validator(mode="after")
    def _rate_limits_have_keys(self) -> Serve:
        if self.requests_per_minute is not None and self.api_keys_env is None:
            raise ValueError("serve.requests_per_minute limits each API key: set serve.api_keys_env too")
        return self

    @model_validator(mode="after")
    def _replica_counts_are_ordered(self) -> Serve:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError("max_replicas must not be below replicas")
        return self
