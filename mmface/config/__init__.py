"""The recipe: one frozen tree that says everything a retraining does.

A recipe is a short YAML file over the defaults here (:mod:`mmface.config.load` reads it). Unknown keys are refused. The
resolved recipe is saved beside every artifact. Figures of the paper are named where they stand (§ = DESIGN).
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated

import yaml
from pydantic import BaseModel, Field, model_validator

from mmface.config.data import Captioning, Collection, Components, Data, Layout, Portraits, Quality, TextPadding
from mmface.config.jobs import Entrypoint, Jobs, Resources
from mmface.config.section import Section
from mmface.config.serve import Evaluate, Gate, Sampler, Sampling, Serve
from mmface.config.train import Model, Objective, ObjectiveConfig, Phase, Precision, Train
from mmface.config.watch import Watch

__all__ = [
    "PICTURE_SIDE",
    "Captioning",
    "Collection",
    "Components",
    "Data",
    "Entrypoint",
    "Evaluate",
    "Gate",
    "Jobs",
    "Layout",
    "Model",
    "Objective",
    "ObjectiveConfig",
    "Phase",
    "Portraits",
    "Precision",
    "Quality",
    "Recipe",
    "Resources",
    "Sampler",
    "Sampling",
    "Section",
    "Serve",
    "TextPadding",
    "Train",
    "Watch",
    "fingerprint",
]

PICTURE_SIDE = 512  # pixels; what stages store unless a phase needs more


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
    watch: Watch = Watch()
    sampling: Sampling = Sampling()
    evaluate: Evaluate = Evaluate()
    gate: Gate = Gate()
    serve: Serve = Serve()
    jobs: Jobs = Jobs()

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

    @model_validator(mode="after")
    def _balanced(self) -> Recipe:
        names = {collection.name for collection in self.sources}
        unknown = sorted(set(self.train.balance) - names) if isinstance(self.train.balance, dict) and names else []
        if unknown:
            raise ValueError(f"train.balance weighs {', '.join(unknown)}, which is not in sources")
        return self

    @model_validator(mode="after")
    def _recomputed(self) -> Recipe:
        wanted, depth = self.train.recomputed_blocks(self.model.depth), self.model.depth
        if wanted > depth:
            raise ValueError(f"train.gradient_checkpointing: {wanted} of {depth} blocks; true means all of them")
        return self

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Every resolution that needs latents, smallest first."""
        return tuple(sorted({phase.resolution for phase in self.phases}))

    @property
    def picture_side(self) -> int:
        """Side of the square photographs and drawings that stages work on and store, in pixels; smaller ones stay."""
        return max(PICTURE_SIDE, *self.resolutions)

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
