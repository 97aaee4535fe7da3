"""Recipe sections about painting: the sampler and the HTTP service."""

from __future__ import annotations

from typing import Annotated, Any, Literal

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
    drawing_guidance_scale: Annotated[float, Field(ge=0)] = Field(
        default=1.0,
        description="Strength of classifier-free guidance towards the drawing; 1 turns it off. Other values cost "
        "another evaluation in each guided step.",
    )
    guidance_start: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0, description="Share of the steps after which guidance begins."
    )
    guidance_end: Annotated[float, Field(ge=0, le=1)] = Field(
        default=1.0,
        description="Share of the steps after which guidance ends; steps without guidance cost one evaluation.",
    )
    precision: Literal["fp32", "bf16", "auto"] = Field(
        default="auto",
        description="Number format of the transformer's matrix products. `auto`: bf16 where the device multiplies it "
        "natively, else fp32.",
    )

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> Sampling:
        if self.guidance_start > self.guidance_end:
            raise ValueError("guidance_start must not be after guidance_end")
        return self


class Canary(Section):
    """Section ``serve.canary``: a second version that answers a share of the requests.

    ``canary: challenger`` stands for ``canary: {alias: challenger}``. With ``auto`` the service itself promotes or
    withdraws the version, by anytime-valid tests of the live answers (:mod:`serve.canary.evidence`).
    """

    alias: str | None = Field(default=None, description="Alias of the canary's version; null: no canary.")
    share: Fraction = Field(
        default=0.05, description="Share of seeds that the canary answers. The same seeds always go to the canary."
    )
    auto: bool = Field(
        default=False,
        description="Let the service decide: it moves `serve.alias` to the canary's version once that is shown to be "
        "no worse than the limits below allow, and deletes `serve.canary.alias` once it is shown to be worse, or "
        "undecided after `max_requests`.",
    )
    min_requests: PositiveInt = Field(
        default=200, description="Fewest requests that the canary answers before it is promoted."
    )
    max_requests: PositiveInt = Field(
        default=5000, description="Requests of the canary after which it is withdrawn if nothing is decided."
    )
    max_error_increase: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.02, description="Largest increase of the share of failed requests over the champion's."
    )
    max_slowdown: PositiveFloat = Field(
        default=0.25,
        description="Largest slowdown of a typical request against the champion's: 0.25 allows 1.25 times its "
        "duration. Only requests that meet an idle replica are compared.",
    )
    max_agreement_loss: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.05,
        description="Largest loss against the champion in the mean intersection over union of the given mask and the "
        "mask that `parser` finds in the picture.",
    )
    level: Annotated[float, Field(gt=0.5, lt=1)] = Field(
        default=0.95,
        description="Confidence level of the decisions: a version beyond a limit is promoted, and one within all "
        "limits is shown to be worse, with a probability of at most 1 - `level` each.",
    )
    parser: str = Field(
        default="zoo:parser",
        description="Network that parses pictures for `max_agreement_loss`, as `components.parser` is named.",
    )
    require_gate: bool = Field(
        default=True, description="Decide only about versions that the gate has promoted; false: about any version."
    )

    @model_validator(mode="before")
    @classmethod
    def _alias_is_enough(cls, given: Any) -> Any:
        return {"alias": given} if given is None or isinstance(given, str) else given

    @model_validator(mode="after")
    def _auto_can_decide(self) -> Canary:
        if not self.auto:
            return self
        if self.alias is None:
            raise ValueError("auto decides about the version of an alias: set serve.canary.alias too")
        if not 0 < self.share < 1:
            raise ValueError("auto compares the answers of both versions: set share above 0 and below 1")
        if self.max_requests < self.min_requests:
            raise ValueError("max_requests must not be below min_requests")
        return self


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
    canary: Canary = Field(
        default=Canary(),
        description="A second version that answers a share of the requests, and whether the service decides about it. "
        "`canary: NAME` stands for `canary: {alias: NAME}`.",
    )
    canary_share: Fraction | None = Field(
        default=None, description="`canary.share` by its name in earlier releases; replaces it if it is set."
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

    @model_validator(mode="before")
    @classmethod
    def _share_had_another_name(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("canary_share") is None:
            return given
        canary = given.get("canary")
        section = canary if isinstance(canary, dict) else {"alias": canary}
        return given | {"canary": section | {"share": given["canary_share"]}, "canary_share": None}

    @model_validator(mode="after")
    def _canary_is_another_alias(self) -> Serve:
        if self.canary.alias == self.alias:
            message = f"serve.canary.alias is {self.alias}, as serve.alias: name the alias of another version"
            raise ValueError(message)
        return self

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
