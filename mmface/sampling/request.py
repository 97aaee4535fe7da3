"""A request to the pipeline: its arguments, checked and expanded to one entry per image (§9: image i of a batch equals
the single call with its seed)."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from mmface.config.guidance import Guidance
from mmface.errors import InputError
from mmface.imaging.labels import mask_from_image
from mmface.imaging.pixels import MaskResize, mask_to_tensor, sketch_to_tensor
from mmface.model import MODALITIES

MAX_SEED = 2**63
MAX_STEPS = 1000
MAX_BATCH = 1024

Drawing = Image.Image | Sequence[Image.Image] | Tensor | None

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Request:
    """A checked request for n images of ``height`` x ``width`` pixels.

    ``prompts``, ``negative_prompts`` and ``drawings`` have one entry for all images or one per image.

    Attributes:
        prompts, negative_prompts: texts.
        drawings: images, a tensor [1 or n, 3, H, W] in [-1, 1], or ``None`` for generation without a drawing.
        modalities: n names out of ``MODALITIES``.
        seeds: n numbers in [0, 2**63).
    """

    prompts: list[str]
    negative_prompts: list[str]
    drawings: list[Image.Image] | Tensor | None
    modalities: list[str]
    seeds: list[int]
    height: int
    width: int
    num_inference_steps: int
    guidance: Guidance

    def pixels(self, mask_resize: MaskResize) -> Tensor | None:
        """The drawings as input of the autoencoder: [1 or n, 3, H, W] in [-1, 1]."""
        if self.drawings is None or isinstance(self.drawings, Tensor):
            return self.drawings
        size = (self.height, self.width)
        # One drawing read with several modalities gives several tensors.
        count = len(self.drawings) if len(set(self.modalities)) == 1 else len(self.seeds)
        pictures = zip(spread(self.drawings, count), self.modalities[:count], strict=True)
        return torch.stack([_picture(image, modality, size, mask_resize) for image, modality in pictures])


def make_request(
    *,
    prompt: str | Sequence[str],
    negative_prompt: str | Sequence[str],
    condition: Drawing,
    modality: str | Sequence[str],
    seeds: int | Sequence[int] | None,
    height: int,
    width: int,
    num_inference_steps: int,
    guidance: Guidance,
    multiple: int,
) -> Request:
    """Checks the arguments of :meth:`mmface.pipeline.MMFacePipeline.__call__`, which documents them.

    Args:
        multiple: height and width must be divisible by this.

    Raises:
        InputError: an argument is wrong; names the field and the fix.
    """
    prompts = _texts(prompt, "prompt")
    negative_prompts = _texts(negative_prompt, "negative_prompt")
    modalities = _modalities(modality)
    drawings = _drawings(condition)
    size = _size(height, width, multiple)
    if isinstance(drawings, Tensor) and tuple(drawings.shape[1:]) != (3, *size):
        raise InputError(f"a tensor must be [n, 3, {height}, {width}], got {list(drawings.shape)}", field="condition")
    lengths = {
        "prompt": len(prompts),
        "negative_prompt": len(negative_prompts),
        "condition": 1 if drawings is None else len(drawings),
        "modality": len(modalities),
        "seeds": len(seeds) if isinstance(seeds, Sequence) else 1,
    }
    count = _common_length(lengths)
    return Request(
        prompts=prompts,
        negative_prompts=negative_prompts,
        drawings=drawings,
        modalities=spread(modalities, count),
        seeds=_seeds(seeds, count),
        height=size[0],
        width=size[1],
        num_inference_steps=_steps(num_inference_steps),
        # Without a drawing there is nothing to move away from.
        guidance=replace(guidance, drawing_guidance_scale=1.0) if drawings is None else guidance,
    )


def spread(items: list[_Item], count: int) -> list[_Item]:
    """Repeats a single entry ``count`` times; other lists are returned unchanged."""
    return items * count if len(items) == 1 else items


def _picture(image: Image.Image, modality: str, size: tuple[int, int], mask_resize: MaskResize) -> Tensor:
    if modality == "sketch":
        return sketch_to_tensor(image, size)
    try:
        return mask_to_tensor(mask_from_image(image), size, mask_resize)
    except InputError as error:
        raise InputError(error.message, field="condition") from None


def _texts(text: str | Sequence[str], field: str) -> list[str]:
    texts = [text] if isinstance(text, str) else text
    if not isinstance(texts, Sequence) or not texts or not all(isinstance(item, str) for item in texts):
        raise InputError("must be a string, or a list of at least one", field=field)
    for item in texts:
        try:
            item.encode("utf-8")
        except UnicodeEncodeError:
            raise InputError("is not valid UTF-8 text", field=field) from None
    return list(texts)


def _modalities(modality: str | Sequence[str]) -> list[str]:
    modalities = [modality] if isinstance(modality, str) else list(modality)
    unknown = [item for item in modalities if item not in MODALITIES]
    if unknown or not modalities:
        given = repr(unknown[0]) if unknown else "an empty list"
        raise InputError(f"must be one of {', '.join(MODALITIES)}, got {given}", field="modality")
    return modalities


def _drawings(condition: Drawing) -> list[Image.Image] | Tensor | None:
    if condition is None or (isinstance(condition, Tensor) and condition.ndim == 4 and len(condition)):
        return condition
    drawings = [condition] if isinstance(condition, Image.Image) else condition
    if isinstance(drawings, Tensor) or not drawings or not all(isinstance(item, Image.Image) for item in drawings):
        raise InputError("must be an image, a list of images, or a tensor [n, 3, H, W] in [-1, 1]", field="condition")
    return list(drawings)


def _size(height: int, width: int, multiple: int) -> tuple[int, int]:
    for side in (height, width):
        if side < 1 or side % multiple:
            raise InputError(f"{height}x{width}: both sides must be multiples of {multiple}", field="size")
    return height, width


def _common_length(lengths: dict[str, int]) -> int:
    count = max(lengths.values())
    for field, length in lengths.items():
        if length not in (1, count):
            raise InputError(f"has {length} entries for {count} images; give 1 or {count}", field=field)
    if count > MAX_BATCH:
        raise InputError(f"{count} images in one call; at most {MAX_BATCH}", field="n")
    return count


def _seeds(seeds: int | Sequence[int] | None, count: int) -> list[int]:
    if seeds is None:
        # Every JSON parser reads integers of 32 bits exactly.
        return [secrets.randbelow(2**32) for _ in range(count)]
    numbers = list(seeds) if isinstance(seeds, Sequence) else [seeds]
    for number in numbers:
        if not isinstance(number, int) or not 0 <= number < MAX_SEED:
            raise InputError(f"{number!r} is not an integer in [0, 2**63)", field="seed")
    if len(numbers) == count:
        return numbers
    if numbers[0] + count > MAX_SEED:
        raise InputError(f"{numbers[0]} leaves no room for {count} consecutive seeds below 2**63", field="seed")
    return [numbers[0] + i for i in range(count)]


def _steps(num_inference_steps: int) -> int:
    if not isinstance(num_inference_steps, int) or not 1 <= num_inference_steps <= MAX_STEPS:
        message = f"{num_inference_steps!r} is not an integer from 1 to {MAX_STEPS}"
        raise InputError(message, field="num_inference_steps")
    return num_inference_steps
