"""Measures the samples of a system against the rows of the evaluation set that they were painted for (§8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mmface.config import Recipe
from mmface.evaluate import metrics
from mmface.evaluate.groups import groups_of
from mmface.evaluate.inputs import Row, batches, read_drawings
from mmface.evaluate.judges import Judges, Seen
from mmface.evaluate.scores import Measure
from mmface.imaging.pixels import to_tensor
from mmface.networks.components import component_identity

CLIP_INPUT = "whole image, resized and normalised by the processor of the CLIP"
PARSER_INPUT = "whole image, resized and normalised by the processor of the parser; labels at the image's resolution"


class Score:
    """The ``scores`` stage: measures samples.

    Args:
        recipe: gives the judges and the resolution (of the last phase).
        device: where to run the judges.
    """

    def __init__(self, recipe: Recipe, device: str = "cpu") -> None:
        self.recipe = recipe
        self.size = recipe.phases[-1].resolution
        self.judges = Judges(judging(recipe), device)
        self.clip_name = extractor(recipe.components.clip)

    def __call__(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Rows of SAMPLES, each with ``mask`` and ``sketch`` of its row of EVALSET -> rows of SCORES."""
        return [scored for batch in batches(rows, self.recipe.evaluate.batch_size) for scored in self._batch(batch)]

    def _batch(self, rows: list[Row]) -> list[dict[str, Any]]:
        generated, sources = ([_picture(row[name]) for row in rows] for name in ("generated", "source"))
        drawn, real = (
            torch.stack([to_tensor(image, self.size) for image in images]) for images in (generated, sources)
        )
        masks, sketches = read_drawings(rows, self.size)
        given = torch.from_numpy(masks)
        seen, seen_source = self.judges.look(generated), self.judges.look(sources)
        prompts = [str(row["prompt"]) for row in rows]
        columns = self._columns(seen, seen_source, given, prompts)
        columns |= {
            "ssim": metrics.ssim(drawn, real),
            "edge_agreement": metrics.edge_agreement(self.judges.draw(generated), sketches),
        }
        counts = metrics.label_counts(seen.labels, given)
        return [
            {
                **{name: row[name] for name in ("id", "image_id", "modality")},
                "metrics": [
                    *((name, float(values[i])) for name, values in columns.items()),
                    *_hair(prompts[i], drawn[i], real[i], given[i]).items(),
                ],
                **{name: getattr(counts, name)[i].tolist() for name in ("hit", "given", "found")},
                "groups": list(groups_of(prompts[i], real[i], given[i]).items()),
                "features": [(self.clip_name, _bytes(seen.embeddings[i]))],
                "source_features": [(self.clip_name, _bytes(seen_source.embeddings[i]))],
            }
            for i, row in enumerate(rows)
        ]

    def _columns(self, seen: Seen, source: Seen, masks: Tensor, prompts: list[str]) -> dict[str, Tensor]:
        """Metrics of each image; ``source_*`` are those of the photograph, which a perfect model would reach."""
        texts = self.judges.read(prompts)
        return {
            "miou": metrics.mask_iou(metrics.label_counts(seen.labels, masks)),
            "accuracy": metrics.mask_accuracy(metrics.label_counts(seen.labels, masks)),
            "source_miou": metrics.mask_iou(metrics.label_counts(source.labels, masks)),
            "clip_score": metrics.clip_score(seen.embeddings, texts),
            "source_clip_score": metrics.clip_score(source.embeddings, texts),
            "clip_distance": 1 - metrics.cosine(seen.embeddings, source.embeddings),
            f"lpips_{metrics.slug(self.recipe.components.parser)}": metrics.feature_distance(
                seen.stages, source.stages
            ),
        }


def judging(recipe: Recipe) -> Any:
    """The recipe's components with the parser that judges."""
    return recipe.components.model_copy(update={"parser": recipe.evaluate.parser or recipe.components.parser})


def extractor(name: str) -> str:
    """The name of a network with the hash of its weights, such as ``zoo-clip-1a2b3c4d``."""
    return f"{metrics.slug(name)}-{metrics.short_hash(component_identity(name))}"


def measures(recipe: Recipe) -> dict[str, Measure]:
    """What each metric of :class:`Score` is measured with."""
    parts = judging(recipe)
    clip, parser, sketcher = (extractor(name) for name in (parts.clip, parts.parser, parts.sketcher))
    parsed: dict[str, Any] = {"extractor": parser, "preprocessing": PARSER_INPUT}
    seen: dict[str, Any] = {"extractor": clip, "preprocessing": CLIP_INPUT}
    own: Mapping[str, Measure] = {
        "miou": Measure(better="higher", **parsed),
        "accuracy": Measure(better="higher", **parsed),
        "source_miou": Measure(**parsed),
        "clip_score": Measure(better="higher", **seen),
        "source_clip_score": Measure(**seen),
        "clip_distance": Measure(better="lower", **seen),
        f"lpips_{metrics.slug(recipe.components.parser)}": Measure(better="lower", **parsed),
        "ssim": Measure(better="higher"),
        "edge_agreement": Measure(better="higher", extractor=sketcher),
        "hair_colour_accuracy": Measure(better="higher"),
        "source_hair_colour_accuracy": Measure(),
        "frechet": Measure(better="lower", features=clip, **seen),
        "kid": Measure(better="lower", features=clip, **seen),
    }
    return dict(own)


def _hair(prompt: str, drawn: Tensor, real: Tensor, mask: Tensor) -> dict[str, float]:
    """Whether the hair has the prompted colour; empty without a prompted colour or without hair in the mask."""
    word, found = metrics.prompted_hair(prompt), metrics.hair_word(drawn, mask)
    if word is None or found is None:
        return {}
    return {
        "hair_colour_accuracy": float(found == word),
        "source_hair_colour_accuracy": float(metrics.hair_word(real, mask) == word),
    }


def _picture(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data)).convert("RGB")


def _bytes(features: Tensor) -> bytes:
    data: bytes = features.numpy().astype("<f4").tobytes()
    return data
