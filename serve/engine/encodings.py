"""A request's text and drawing as the transformer takes them, remembered by content."""

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
from serve.engine.defaults import Plan
from serve.pictures.drawings import fit_drawing

if TYPE_CHECKING:
    from mmface.pipeline import MMFacePipeline

REMEMBERED = 256  # texts, and as many drawings

Value = TypeVar("Value")


class Remembered(OrderedDict[object, Value]):
    """The last ``REMEMBERED`` values that were used."""

    def get_or_make(self, key: object, make: Callable[[], Value]) -> Value:
        """The value of ``key``, made if it is not there."""
        value = self.pop(key) if key in self else make()
        self[key] = value
        if len(self) > REMEMBERED:
            self.popitem(last=False)
        return value


class Encodings:
    """What a pipeline makes of requests. Each is encoded alone, so that its bits do not depend on others."""

    def __init__(self, pipeline: MMFacePipeline) -> None:
        self.pipeline = pipeline
        self._objective = objective_of(pipeline.scheduler)
        self._texts: Remembered[EncodedText] = Remembered()
        self._drawings: Remembered[Tensor] = Remembered()

    def trajectory(self, plan: Plan, image: int) -> Trajectory:
        """Image ``image`` of a request before its first step."""
        wanted = self._conditioning(plan, plan.job.fields.prompt)
        guided = plan.guidance_scale != 1
        return Trajectory(
            make_scheduler(self._objective, plan.sampler),
            self.pipeline.noise([plan.seeds[image]], plan.height, plan.width),
            wanted,
            self._conditioning(plan, plan.job.fields.negative_prompt) if guided else None,
            num_inference_steps=plan.num_inference_steps,
            guidance_scale=plan.guidance_scale,
        )

    def _conditioning(self, plan: Plan, prompt: str) -> Conditioning:
        text = self._texts.get_or_make(prompt, lambda: self.pipeline.encode_prompts([prompt]))
        drawing, fit = plan.job.condition, plan.job.fields.fit
        key = (plan.job.modality, fit, plan.width, plan.height, drawing.shape, sha256(drawing.tobytes()).digest())
        latents = self._drawings.get_or_make(key, lambda: self.pipeline.encode_drawings(self._pixels(plan)))
        modality = torch.tensor([MODALITIES.index(plan.job.modality)])
        made = Conditioning(latents, text.sequence, text.pooled, modality, text.mask)
        transformer = self.pipeline.transformer
        return made.to(transformer.device, transformer.dtype)

    def _pixels(self, plan: Plan) -> Tensor:
        size = (plan.height, plan.width)
        drawing = fit_drawing(plan.job.condition, plan.job.modality, (plan.width, plan.height), plan.job.fields.fit)
        if plan.job.modality == "sketch":
            return sketch_to_tensor(Image.fromarray(drawing), size)[None]
        return mask_to_tensor(drawing, size, self.pipeline.config["mask_resize"])[None]
