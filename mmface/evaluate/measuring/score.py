"""Measures the samples of a system against the rows of the evaluation set that they were painted for (§8)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmface.config import Recipe
from mmface.errors import InputError
from mmface.evaluate.inputs import Row, batches, read_drawings
from mmface.evaluate.measuring import metrics
from mmface.evaluate.measuring.distances import Given, nearest
from mmface.evaluate.measuring.groups import groups_of
from mmface.evaluate.measuring.judges import Judges, Seen
from mmface.evaluate.measuring.measures import measures, stand_in
from mmface.evaluate.scores import NEAREST, SOURCE_NEAREST
from mmface.imaging.pixels import to_tensor

Pictures = Sequence[Image.Image]
Blocks = Callable[[], Iterable[Given]]


class Score:
    """The ``scores`` stage: measures samples.

    Args:
        recipe: gives the judges and the resolution (of the last phase).
        device: where to run the judges.
        trained: gives the features [m, D] of the training photographs in blocks, in the features that ``memorised`` of
            :func:`measures` names; None measures no memorisation. It is called once for the rows of a call.
    """

    def __init__(self, recipe: Recipe, device: str = "cpu", trained: Blocks | None = None) -> None:
        self.recipe = recipe
        self.size = recipe.phases[-1].resolution
        self.judges = Judges(recipe, device)
        self.trained = trained
        known = measures(recipe, trained=trained is not None)
        self.available = {name for name, measure in known.items() if not measure.unavailable}
        self.memory_key = known["memorised"].extractor

    def __call__(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Rows of SAMPLES, each with ``mask`` and ``sketch`` of its row of EVALSET -> rows of SCORES."""
        scored = [one for batch in batches(rows, self.recipe.evaluate.batch_size) for one in self._batch(batch)]
        if self.trained is not None and scored:
            self._remember(scored, self.trained())
        return scored

    def _batch(self, rows: list[Row]) -> list[dict[str, Any]]:
        generated, sources = ([self._picture(row, name) for row in rows] for name in ("generated", "source"))
        drawn, real = (
            torch.stack([to_tensor(image, self.size) for image in images]) for images in (generated, sources)
        )
        masks, sketches = read_drawings(rows, self.size)
        given = torch.from_numpy(masks)
        seen, source = self.judges.look(generated), self.judges.look(sources)
        counts = metrics.label_counts(seen.labels, given)
        prompts = [str(row["prompt"]) for row in rows]
        columns = {
            "miou": metrics.mask_iou(counts),
            "accuracy": metrics.mask_accuracy(counts),
            "source_miou": metrics.mask_iou(metrics.label_counts(source.labels, given)),
            **self._seen(seen, source, prompts),
            "ssim": metrics.ssim(drawn, real),
            **self._optional(generated, sources, drawn, real, prompts),
            "edge_agreement": metrics.edge_agreement(self.judges.draw(generated), sketches),
        }
        return [
            {
                **{name: row[name] for name in ("id", "image_id", "modality")},
                "metrics": [
                    *((name, float(values[i])) for name, values in columns.items() if values[i] is not None),
                    *_hair(prompts[i], drawn[i], real[i], given[i]).items(),
                ],
                **{name: one[i].tolist() for name, one in counts._asdict().items()},
                "groups": list(groups_of(prompts[i], real[i], given[i]).items()),
                "features": [(key, _bytes(values[i])) for key, values in seen.features.items()],
                "source_features": [(key, _bytes(values[i])) for key, values in source.features.items()],
            }
            for i, row in enumerate(rows)
        ]

    def _seen(self, seen: Seen, source: Seen, prompts: list[str]) -> dict[str, Tensor]:
        """Metrics in the features of CLIP and parser; ``source_*`` are those of the photograph."""
        texts = self.judges.read(prompts)
        return {
            "clip_score": metrics.clip_score(seen.embeddings, texts),
            "source_clip_score": metrics.clip_score(source.embeddings, texts),
            "clip_distance": 1 - metrics.cosine(seen.embeddings, source.embeddings),
            stand_in(self.recipe): metrics.feature_distance(seen.stages, source.stages),
        }

    def _optional(
        self, generated: Pictures, sources: Pictures, drawn: Tensor, real: Tensor, prompts: list[str]
    ) -> dict[str, Any]:
        """Metrics that depend on the recipe's networks or resolution."""
        found: dict[str, Any] = {}
        if "ms_ssim" in self.available:
            found["ms_ssim"] = metrics.ms_ssim(drawn, real)
        if "lpips" in self.available:
            found["lpips"] = self.judges.perceive(generated, sources)
        if self.judges.llm_score is not None:
            found["llm_score"] = self.judges.llm_score(generated, prompts)
        return found

    def _remember(self, scored: list[dict[str, Any]], blocks: Iterable[Given]) -> None:
        """Adds the distances to the nearest training photograph; :mod:`mmface.evaluate.scores` compares them."""
        columns = ("features", "source_features")
        both = [np.frombuffer(dict(row[column])[self.memory_key], "<f4") for column in columns for row in scored]
        drawn, real = np.split(nearest(np.stack(both), blocks), 2)
        for row, near, known in zip(scored, drawn, real, strict=True):
            row["metrics"] += [(NEAREST, float(near)), (SOURCE_NEAREST, float(known))]

    def _picture(self, row: Row, name: str) -> Image.Image:
        """A decoded image of the sample.

        Raises:
            InputError: it is no image, or has another size than the evaluation.
        """
        field = f"{row['id']}: {name}"
        try:
            image = Image.open(BytesIO(row[name])).convert("RGB")
        except (OSError, SyntaxError, ValueError, TypeError) as error:
            raise InputError(f"cannot be decoded ({error}); paint it again", field=field) from error
        if image.size != (self.size, self.size):
            size = f"{image.width} x {image.height} pixels, the evaluation has {self.size} x {self.size}"
            raise InputError(f"has {size}; resize it or paint it again", field=field)
        return image


def _hair(prompt: str, drawn: Tensor, real: Tensor, mask: Tensor) -> dict[str, float]:
    """Whether the hair has the prompted colour; empty without a prompted colour or without hair in the mask."""
    word, found = metrics.prompted_hair(prompt), metrics.hair_word(drawn, mask)
    if word is None or found is None:
        return {}
    return {
        "hair_colour_accuracy": float(found == word),
        "source_hair_colour_accuracy": float(metrics.hair_word(real, mask) == word),
    }


def _bytes(features: Tensor) -> bytes:
    data: bytes = features.numpy().astype("<f4").tobytes()
    return data
