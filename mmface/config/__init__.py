"""The recipe: a frozen pydantic tree that holds every setting of a retraining.

A recipe is a short YAML file over the defaults here; :mod:`mmface.config.load` reads it. Each field carries its own
description, which ``mmface recipe explain KEY`` prints; § is a section of DESIGN. The resolved recipe is saved beside
every artifact.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated

import yaml
from pydantic import BaseModel, Field, model_validator

from mmface.config.components import Captioning, Components, Preferred
from mmface.config.data import Collection, Data, Layout, Portraits, Quality, TextPadding
from mmface.config.evaluation import Comparison, Drift, Evaluate, Gate, Metrics, Watch
from mmface.config.jobs import Entrypoint, Jobs, Resources
from mmface.config.model import Model, Objective, ObjectiveConfig
from mmface.config.section import Section
from mmface.config.serve import Canary, Sampler, Sampling, Serve
from mmface.config.train import Phase, Precision, Train

__all__ = [
    "PICTURE_SIDE",
    "Canary",
    "Captioning",
    "Collection",
    "Comparison",
    "Components",
    "Data",
    "Drift",
    "Entrypoint",
    "Evaluate",
    "Gate",
    "Jobs",
    "Layout",
    "Metrics",
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

PICTURE_SIDE = 512  # pixels; stages store pictures of this side unless a phase needs larger ones


class Recipe(Section):
    """All settings of a retraining; each section is a field."""

    name: str = Field(
        default="recipe",
        description="Name of the recipe, used for the bundle and the MLflow run. Another name makes a new bundle and "
        "trains nothing again.",
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        default=0,
        description="Seed of drawn portraits, initial weights, sample order, dropout and noise. The same recipe with "
        "the same seed gives the same model on the same machine and number of workers. `train.seed` changes training "
        "alone.",
    )
    sources: tuple[Collection, ...] = Field(
        default=(),
        description="Collections of photographs to learn from. Empty: the portraits that `portraits` describes are "
        "drawn and used instead.",
    )
    portraits: Portraits = Field(
        default=Portraits(),
        description="The drawn collection that is used when `sources` is empty; no photograph is needed.",
    )
    data: Data = Field(
        default=Data(),
        description="Preparation: which rows are kept, filtered or quarantined, and what is stored of each (§6).",
    )
    components: Components = Field(
        default=Components(),
        description="Frozen networks, each by hub id `owner/name[/folder][@revision]`, local folder or `zoo:<name>` "
        "(§7). A hub id without a revision is pinned to its current commit when a run begins.",
    )
    preferred: Preferred = Field(
        default=Preferred(),
        description="Hub ids that take the place of `zoo:` names in `components`, if the hub or its cache on this "
        "machine has them when a run begins. The log says which are used, and the recipe that is saved with the run "
        "has them in `components`.",
    )
    captioning: Captioning = Field(
        default=Captioning(),
        description="How a captioning model is asked and which answers are accepted (paper §3.1). While "
        "`components.captioner` is `facts`, only `captioning.facts` is used.",
    )
    model: Model = Field(
        default=Model(),
        description="The trained transformer (§4). Latent channels and text width follow from the components.",
    )
    objective: ObjectiveConfig = Field(
        default=ObjectiveConfig(), description="What the transformer learns to predict (§5)."
    )
    phases: tuple[Phase, ...] = Field(
        default=(Phase(resolution=256, epochs=300),),
        min_length=1,
        description="Stretches of training in order, each at one resolution; a phase starts from the EMA weights of "
        "the one before (§5). Evaluation and, by default, the service use the resolution of the last one.",
    )
    train: Train = Field(default=Train(), description="The optimizer, the workers and what they keep (§5).")
    watch: Watch = Field(
        default=Watch(),
        description="What is measured, painted and refused while training; it does not change what is learnt.",
    )
    sampling: Sampling = Field(
        default=Sampling(),
        description="How pictures are painted in evaluation, and in the service unless a request says otherwise.",
    )
    evaluate: Evaluate = Field(
        default=Evaluate(), description="Which held-out rows are painted and measured after training (§8)."
    )
    metrics: Metrics = Field(
        default=Metrics(), description="Standard networks that measure pictures beside those of `components` (§8)."
    )
    gate: Gate = Field(
        default=Gate(),
        description="Limits that a version must meet to become champion (§8). Null leaves a check out; a metric that "
        "is missing fails its check.",
    )
    drift: Drift = Field(
        default=Drift(),
        description="How the flow `watch` compares new photographs and served prompts with what the champion was "
        "trained on.",
    )
    serve: Serve = Field(default=Serve(), description="The HTTP service: address, limits, replicas and access (§9).")
    jobs: Jobs = Field(
        default=Jobs(),
        description="Ray jobs: resources, time limits, and what happens when one is lost. Nothing here changes what "
        "the stages make.",
    )

    @model_validator(mode="after")
    def _prompts_suffice_for_the_captions(self) -> Recipe:
        wanted, given = self.data.captions_per_image, len(self.captioning.prompts)
        if self.components.captioner != "facts" and given < wanted:
            message = (
                f"captioning.prompts: {given} prompts for data.captions_per_image {wanted}; give at least {wanted}"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _collections_have_different_names(self) -> Recipe:
        names = [collection.name for collection in self.sources]
        if len(set(names)) < len(names):
            raise ValueError(f"every collection in sources needs its own name (got {', '.join(names)})")
        return self

    @model_validator(mode="after")
    def _balance_weighs_known_collections(self) -> Recipe:
        names = {collection.name for collection in self.sources}
        unknown = sorted(set(self.train.balance) - names) if isinstance(self.train.balance, dict) and names else []
        if unknown:
            raise ValueError(f"train.balance weighs {', '.join(unknown)}, which is not in sources")
        return self

    @model_validator(mode="after")
    def _recomputes_at_most_every_block(self) -> Recipe:
        wanted, depth = self.train.recomputed_blocks(self.model.depth), self.model.depth
        if wanted > depth:
            raise ValueError(f"train.gradient_checkpointing: {wanted} of {depth} blocks; true means all of them")
        return self

    @property
    def training_seed(self) -> int:
        """Seed of everything that training draws."""
        return self.seed if self.train.seed is None else self.train.seed

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Resolutions of all phases, smallest first; each needs latents."""
        return tuple(sorted({phase.resolution for phase in self.phases}))

    @property
    def picture_side(self) -> int:
        """Largest side of the square photographs and drawings that stages store, in pixels."""
        return max(PICTURE_SIDE, *self.resolutions)

    def to_yaml(self) -> str:
        """The resolved recipe with every key, as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def fingerprint(*parts: object) -> str:
    """Hash of ``parts`` as canonical JSON, 16 hex digits: equal parts give equal names on any machine (§6)."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=_canonical)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _canonical(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"not canonical: {type(value)}")
