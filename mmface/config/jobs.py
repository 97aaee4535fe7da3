"""The recipe section about jobs on a cluster; it does not change what the stages make."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mmface.config.section import PositiveFloat, PositiveInt, Section

# All but the last make a dataset; ``warm`` loads a version before it becomes champion, on a GPU if it is given one.
Entrypoint = Literal[
    "portraits",
    "images",
    "conditions",
    "captions",
    "text",
    "latents",
    "features",
    "drift",
    "train",
    "evalset",
    "samples",
    "scores",
    "bundle",
    "warm",
]
Amount = Annotated[float, Field(ge=0)]


class Resources(Section):
    """One entry of ``jobs.resources``: what Ray reserves for an entrypoint."""

    cpus: Amount = Field(default=0, description="CPU cores to reserve for the entrypoint's own process.")
    gpus: Amount = Field(default=0, description="GPUs to reserve for the entrypoint's own process.")
    memory_gib: Amount = Field(default=0, description="Memory to reserve for the entrypoint's own process, in GiB.")


class Jobs(Section):
    """Section ``jobs``: how stages run as Ray jobs."""

    resources: dict[Entrypoint, Resources] = Field(
        default={},
        description="What Ray reserves for an entrypoint itself, besides the actors that it starts, such as "
        "`{samples: {gpus: 1}}`. Nothing keeps an entrypoint on the head node.",
    )
    timeout_s: dict[Entrypoint, PositiveInt] = Field(
        default={},
        description="Longest time of a stage, in seconds, such as `{train: 86400}`; a stage that takes longer is "
        "stopped. Stages that are not named have no limit.",
    )
    attempts: PositiveInt = Field(
        default=3,
        description="Largest number of times that one run of a flow starts a stage whose job, or a service that it "
        "needs, was lost.",
    )
    patience_s: PositiveFloat = Field(
        default=600.0, description="How long to wait for a Ray head that does not answer, in seconds."
    )
    autoscaling: bool = Field(
        default=False,
        description="Whether the cluster can add nodes; if so, a run does not refuse to start because there are too "
        "few GPUs at present.",
    )
