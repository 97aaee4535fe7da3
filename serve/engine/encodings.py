"""The transformer's inputs for a request: its text and drawing, encoded and cached by content."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING, TypeVar

import torch
from PIL import Image
from torch import Tensor

from mmface.imaging.pixels import mask_to_tensor, sketch_to_tensor
from mmface.model import MODALITIES, Conditioning
from mmface.networks.text_encoder import EncodedText
from mmface.sampling import Trajectory, make_scheduler, objective_of
from serve.http.job import Job
from serve.pictures.drawings import fit_drawing

if TYPE_CHECKING:
    from mmface.pipeline import MMFacePipeline
    from serve.engine.painting import Painting

CACHED = 256  # texts, and as many drawings

Value = TypeVar("Value")


class Cache(OrderedDict[object, Value]):
    """The :data:`CACHED` most recently used values."""

    def get_or_make(self, key: object, make: Callable[[], Value]) -> Value:
        """The value of ``key``, made by ``make`` if it is not cached."""
        value = self.pop(key) if key in self else make()
        self[key] = value
        if len(self) > CACHED:
            self.popitem(last=False)
        return value


class Encodings:
    """Encodes requests with a pipeline, one at a time, so that the bits of one do not depend on the others."""

    def __init__(self, pipeline: MMFacePipeline) -> None:
        self.pipeline = pipeline
        self._objective = objective_of(pipeline.scheduler)
        self._texts: Cache[EncodedText] = Cache()
        self._drawings: Cache[Tensor] = Cache()

    def trajectory(self, painting: Painting, image: int) -> Trajectory:
        """Image ``image`` of a painting, before its first step."""
        request = painting.job.request
        wanted = self._conditioning(painting, request.prompt)
        guided = painting.guidance.guidance_scale != 1
        return Trajectory(
            make_scheduler(self._objective, painting.sampler),
            self.pipeline.noise([painting.job.seeds[image]], painting.height, painting.width),
            wanted,
            self._conditioning(painting, request.negative_prompt) if guided else None,
            num_inference_steps=painting.num_inference_steps,
            guidance=painting.guidance,
        )

    def _conditioning(self, painting: Painting, prompt: str) -> Conditioning:
        text = self._texts.get_or_make(prompt, lambda: self.pipeline.encode_prompts([prompt]))
        job, size = painting.job, (painting.width, painting.height)
        content = job.condition.shape, sha256(job.condition.tobytes()).digest()
        key = (job.modality, job.request.fit, *size, *content)
        latents = self._drawings.get_or_make(key, lambda: self.pipeline.encode_drawings(self._pixels(job, size)))
        modality = torch.tensor([MODALITIES.index(job.modality)])
        conditioning = Conditioning(latents, text.sequence, text.pooled, modality, text.mask)
        transformer = self.pipeline.transformer
        return conditioning.to(transformer.device, transformer.dtype)

    def _pixels(self, job: Job, size: tuple[int, int]) -> Tensor:
        drawing = fit_drawing(job.condition, job.modality, size, job.request.fit)
        shape = size[::-1]  # height, width
        if job.modality == "sketch":
            return sketch_to_tensor(Image.fromarray(drawing), shape)[None]
        return mask_to_tensor(drawing, shape, self.pipeline.config["mask_resize"])[None]
