"""How the stages run on a cluster; nothing of it changes what they make."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mmface.config.section import PositiveFloat, PositiveInt, Section

# All but the last make a dataset; ``warm`` loads a version before champion moves to it, on a GPU if it is given one.
Entrypoint = Literal[
    "portraits", "images", "conditions", "captions", "text", "latents", "train", "samples", "bundle", "warm"
]
Amount = Annotated[float, Field(ge=0)]


class Resources(Section):
    """What Ray reserves for an entrypoint itself, besides the actors it starts; nothing keeps it on the head node."""

    cpus: Amount = 0
    gpus: Amount = 0
    memory_gib: Amount = 0


class Jobs(Section):
    """Ray jobs and their watching.

    Attributes:
        resources: by entrypoint.
        timeout_s: by entrypoint; a stage that takes longer is stopped. Without one it may take any time.
        attempts: how often in one run of a flow a stage is started whose job, or a service it needs, was lost.
        patience_s: how long a head that does not answer is waited for.
        autoscaling: the cluster can get nodes that it does not have now, so a lack of GPUs is no reason to refuse.
    """

    resources: dict[Entrypoint, Resources] = Field(default={})
    timeout_s: dict[Entrypoint, PositiveInt] = Field(default={})
    attempts: PositiveInt = 3
    patience_s: PositiveFloat = 600.0
    autoscaling: bool = False
