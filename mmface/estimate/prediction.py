"""Estimates how long a recipe takes and how much it stores, before anything runs.

FLOPs and bytes are counted from the recipe's shapes. The fraction of a GPU's peak that is reached and the size of a
photograph are figures of :mod:`mmface.estimate.hardware`. Every line names the sources of its figures.
"""

from __future__ import annotations

from collections.abc import Iterator

from mmface.config import Recipe
from mmface.errors import InputError
from mmface.estimate import lines
from mmface.estimate.hardware import PHOTO_BYTES, Figure, Machine
from mmface.estimate.shapes import Shapes


def estimate(recipe: Recipe, images: int, machine: Machine, photo: Figure = PHOTO_BYTES) -> Iterator[lines.Line]:
    """Estimates each stage; yields lines in the order of the stages.

    Args:
        images: number of photographs; assumes that all of them are usable.
        photo: bytes per photograph.

    Raises:
        InputError: ``images`` is less than 1, or the shape or size of a network is not known.
    """
    if images < 1:
        raise InputError(f"{images} is too few; set at least 1", field="--images")
    shapes = Shapes(recipe)
    yield lines.images_line(images, machine, photo)
    yield lines.conditions_line(shapes, images, machine)
    yield lines.captions_line(recipe, images, machine)
    yield lines.text_line(shapes, images, machine)
    for pixels in recipe.resolutions:
        yield lines.latents_line(shapes, pixels, images, machine)
    for number, phase in enumerate(recipe.phases):
        yield lines.train_line(shapes, number, phase, images, machine)
    yield lines.samples_line(shapes, machine)
