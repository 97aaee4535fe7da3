"""How long a recipe takes, what it stores and what it costs, before anything is run.

FLOPs and bytes are counted from the recipe's shapes; how much of a GPU's peak is reached, and what a photograph weighs,
are figures of :mod:`mmface.estimate.hardware`. Every line says what it was made from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from mmface.config import Phase, Recipe
from mmface.datasets.records import CAPTIONS, CONDITIONS, IMAGES, LATENTS, TEXT
from mmface.errors import InputError
from mmface.estimate.hardware import (
    CAPTION_BYTES,
    CAPTION_TOKENS,
    CPU_SECONDS,
    ENCODING,
    GPUS,
    IMAGE_TOKENS,
    MASK_BYTES,
    PAINTING,
    PHOTO_BYTES,
    PROMPT_TOKENS,
    SKETCH_BYTES,
    STRING_BYTES,
    TRAINING,
    WRITING,
    Figure,
    Gpu,
)
from mmface.estimate.shapes import Shapes

FP32 = 4


@dataclass(frozen=True)
class Machine:
    """What the recipe would run on."""

    gpus: int
    name: str
    gpu: Gpu
    cpus: int


@dataclass(frozen=True)
class Line:
    """One stage.

    Attributes:
        hours: wall time of the stage alone on the whole machine.
        size: bytes that it publishes.
        sources: what both were made from.
    """

    stage: str
    hours: float
    size: float
    sources: tuple[str, ...]


def parse_machine(text: str, cpus: int) -> Machine:
    """``8xA100`` and a number of CPU cores.

    Raises:
        InputError: not of this form, or a GPU whose peak is not known.
    """
    match = re.fullmatch(r"([1-9]\d*)x(\w+)", text)
    if match is None or match[2] not in GPUS:
        raise InputError(f"{text!r}: write NUMBERxNAME with a name of {', '.join(GPUS)}", field="--gpus")
    if cpus < 1:
        raise InputError(f"{cpus} cores: at least 1", field="--cpus")
    return Machine(int(match[1]), match[2], GPUS[match[2]], cpus)


def estimate(recipe: Recipe, images: int, machine: Machine, photo: Figure = PHOTO_BYTES) -> Iterator[Line]:
    """A line for each stage, in the order in which they run.

    Args:
        images: photographs; all of them are taken to be usable.
        photo: bytes of one.

    Raises:
        InputError: the shape of a network is not known.
    """
    if images < 1:
        raise InputError(f"{images} photographs: at least 1", field="--images")
    shapes = Shapes(recipe)
    yield _images(images, machine, photo)
    yield _conditions(shapes, images, machine)
    yield _captions(recipe, images, machine)
    yield _text(shapes, images, machine)
    for pixels in recipe.resolutions:
        yield _latents(shapes, pixels, images, machine)
    for number, phase in enumerate(recipe.phases):
        yield _train(shapes, number, phase, images, machine)
    yield _samples(shapes, machine)


def _images(images: int, machine: Machine, photo: Figure) -> Line:
    hours, source = _cpu("images", images, machine)
    size = images * _row(IMAGES, {"image": photo.value, "mask": 0, "captions": 0, "note": 0})
    return Line("images", hours, size, (source, f"{photo.value / 1e3:g} kB a photograph ({photo.source})"))


def _conditions(shapes: Shapes, images: int, machine: Machine) -> Line:
    parser, sketcher = shapes.parser_flops(), shapes.sketcher_flops()
    gpu = images * (parser + sketcher) / _speed(machine, ENCODING, "fp32")
    cpu, source = _cpu("conditions", images, machine)
    names = shapes.recipe.components
    return Line(
        "conditions",
        max(gpu, cpu),
        images * _row(CONDITIONS, {"mask": MASK_BYTES.value, "sketch": SKETCH_BYTES.value}),
        (
            source,
            f"{_flops(parser)} {names.parser} and {_flops(sketcher)} {names.sketcher} a photograph (counted)",
            f"{MASK_BYTES.value / 1e3:g} kB a mask ({MASK_BYTES.source})",
            f"{SKETCH_BYTES.value / 1e3:g} kB a sketch ({SKETCH_BYTES.source})",
        ),
    )


def _captions(recipe: Recipe, images: int, machine: Machine) -> Line:
    count, captioner = recipe.data.captions_per_image, recipe.components.captioner
    size = images * _row(CAPTIONS, {"captions": count * CAPTION_BYTES.value})
    length = f"{CAPTION_BYTES.value:g} bytes a caption ({CAPTION_BYTES.source})"
    hours, source = _cpu("captions", images, machine)
    if captioner == "facts":
        return Line("captions", hours, size, (source, length))
    weights = _weights(recipe, "captioner")
    asked = IMAGE_TOKENS.value + PROMPT_TOKENS.value + CAPTION_TOKENS.value
    flops = 2 * weights * asked * count
    told = [f"{figure.value:g} ({figure.source})" for figure in (IMAGE_TOKENS, PROMPT_TOKENS, CAPTION_TOKENS)]
    writes = [
        f"{_flops(flops)} a photograph: 2 x {weights:g} parameters (its name) x {count} captions x tokens: "
        f"{' + '.join(told)}"
    ]
    if recipe.components.rewriter is not None:
        weights = _weights(recipe, "rewriter")
        again = 2 * weights * (PROMPT_TOKENS.value + 2 * count * CAPTION_TOKENS.value)
        flops += again
        writes.append(f"{_flops(again)} a photograph to rewrite: 2 x {weights:g} parameters (its name), captions twice")
    gpu = images * flops / _speed(machine, WRITING, "bf16")
    return Line("captions", max(gpu, hours), size, (*writes, length))


def _text(shapes: Shapes, images: int, machine: Machine) -> Line:
    count, flops = shapes.recipe.data.captions_per_image, shapes.text_flops()
    hours = images * count * flops / _speed(machine, ENCODING, "fp32")
    length, width = shapes.text_length, shapes.text_width
    size = images * _row(TEXT, {"sequence": FP32 * count * length * width, "pooled": FP32 * count * width})
    name = shapes.recipe.components.text_encoder
    return Line(
        "text",
        hours,
        size,
        (
            f"{_flops(flops)} a caption (counted, {name})",
            f"{count} x ({length} + 1) x {width} fp32 a photograph (shapes): padding counted, so no caption takes more",
        ),
    )


def _latents(shapes: Shapes, pixels: int, images: int, machine: Machine) -> Line:
    flops = shapes.vae_flops(pixels)
    cpu, source = _cpu("latents", images, machine)
    views, shape = shapes.recipe.data.views, shapes.latent(pixels)
    moments = [name for name in LATENTS.names if pa.types.is_binary(LATENTS.field(name).type)]
    held = [name for name in moments if shapes.has_posterior or not name.endswith("_logvar")]
    sizes = {name: float(FP32 * views * math.prod(shape) * (name in held)) for name in moments}
    return Line(
        f"latents-{pixels}",
        max(3 * views * images * flops / _speed(machine, ENCODING, "fp32"), cpu),
        images * _row(LATENTS, sizes),
        (
            source,
            f"{_flops(flops)} a picture, {3 * views} pictures a photograph (counted, {shapes.recipe.components.vae})",
            f"{len(held)} x {views} x {' x '.join(map(str, shape))} fp32 a photograph (record and shapes)",
        ),
    )


def _train(shapes: Shapes, number: int, phase: Phase, images: int, machine: Machine) -> Line:
    recipe = shapes.recipe
    rows = max(1, round(images * (1 - recipe.data.holdout))) * recipe.data.views
    samples = phase.total_steps(rows) * phase.batch_size
    forward, depth = shapes.transformer_flops(phase.resolution), recipe.model.depth
    passes = 3 + recipe.train.recomputed_blocks(depth) / depth
    hours = samples * passes * forward / _speed(machine, TRAINING, recipe.train.precision)
    weights, kept = shapes.parameters(), recipe.train.keep_last
    checkpoint = weights * (2 * FP32 + (2 if recipe.train.optimizer != "adamw" else 2 * FP32))
    return Line(
        f"train-{number}-{phase.resolution}",
        hours,
        FP32 * weights,
        (
            f"{samples:,} samples: {phase.total_steps(rows):,} steps of {phase.batch_size} over {rows:,} photographs "
            f"(recipe; data.holdout {recipe.data.holdout:g} apart)",
            f"{_flops(forward)} forward (counted), x {passes:.3g} (backward is twice it"
            f"{', recomputing once more' if passes > 3 else ''})",
            f"{weights:,} parameters fp32 (counted); {kept} checkpoints of {checkpoint / 1e9:.1f} GB too",
        ),
    )


def _samples(shapes: Shapes, machine: Machine) -> Line:
    recipe = shapes.recipe
    pictures, steps = recipe.evaluate.n + recipe.evaluate.n_sketch, recipe.sampling.num_inference_steps
    forward = shapes.transformer_flops(recipe.phases[-1].resolution)
    hours = pictures * steps * 2 * forward / _speed(machine, PAINTING, recipe.sampling.precision)
    # A picture, the one it was made from and the drawing.
    size = pictures * 3 * SKETCH_BYTES.value
    told = f"{pictures} pictures x {steps} steps x 2 (guidance) x {_flops(forward)} (counted)"
    return Line("samples", hours, size, (told, f"three pictures of {SKETCH_BYTES.value / 1e3:g} kB each (assumed)"))


def _weights(recipe: Recipe, role: str) -> float:
    """Parameters of a language model by its name."""
    name = getattr(recipe.components, role)
    match = re.search(r"(\d+(?:\.\d+)?)B\b", name)
    if match is None:
        raise InputError(f"the size of {name} does not stand in its name, like 8B", field=f"components.{role}")
    return float(match[1]) * 1e9


def _speed(machine: Machine, share: Figure, precision: str) -> float:
    """FLOP an hour of the whole machine; every GPU that has a price here multiplies bf16 natively."""
    peak = machine.gpu.fp32 if precision == "fp32" else machine.gpu.bf16
    return machine.gpus * peak * share.value * 3600


def _cpu(stage: str, rows: int, machine: Machine) -> tuple[float, str]:
    figure = CPU_SECONDS[stage]
    return rows * figure.value / machine.cpus / 3600, f"{figure.value:g} CPU s a photograph ({figure.source})"


def _row(schema: pa.Schema, sizes: dict[str, float]) -> float:
    """Bytes of one row: ``sizes`` for columns of any length, a hash's length for short ones, the width of numbers."""
    total = 0.0
    for column in schema:
        if column.name in sizes:
            total += sizes[column.name]
        elif pa.types.is_string(column.type) or pa.types.is_nested(column.type):
            total += STRING_BYTES
        else:
            total += column.type.bit_width / 8
    return total


def _flops(count: float) -> str:
    return f"{count / 1e12:.3g} TFLOP" if count >= 1e12 else f"{count / 1e9:.3g} GFLOP"
