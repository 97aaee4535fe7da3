"""The model card of a bundle: its ``README.md`` with components, metrics and lineage (§8)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmface.config import Recipe

TEXT = """---
library_name: diffusers
tags: [mmface-dit, face-generation, conditional-generation]
---
# {name}

Generates a {size} x {size} face from a prompt and a drawing (a 19-label CelebAMask-HQ mask or a sketch).
The method is MMFace-DiT (arXiv 2603.29029), trained with the {objective} objective.

```python
from mmface.pipeline import MMFacePipeline, MMFacePipelineOutput
pipeline = MMFacePipeline.from_pretrained("this folder")
```

Its images are synthetic and must be labelled as such. Do not use it to imitate a real person.

## Components

{parts}

## Metrics on held-out rows

| metric | value |
|---|---|
{figures}

## Lineage

{sources}

The full lineage is in `lineage.json`; every setting is in `recipe.yaml`.
"""


def model_card(recipe: Recipe, lineage: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
    """The text of a bundle's ``README.md``."""
    figures = "\n".join(f"| {name} | {value:.4g} |" for name, value in sorted(metrics.items()))
    sources = "\n".join(
        f"- {name}: `{value}`" for name, value in lineage.items() if isinstance(value, str | int | float)
    )
    parts = "\n".join(f"- {role}: `{name}`" for role, name in recipe.components.model_dump().items() if name)
    size = recipe.phases[-1].resolution
    return TEXT.format(
        name=recipe.name, objective=recipe.objective.name, size=size, parts=parts, figures=figures, sources=sources
    )
