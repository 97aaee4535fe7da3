"""Estimates wall time and stored bytes of one stage each; :mod:`mmface.estimate.prediction` puts them together."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import pyarrow as pa

from mmface.config import Phase, Recipe
from mmface.config.guidance import Guidance
from mmface.datasets.records import CAPTIONS, CONDITIONS, IMAGES, LATENTS, TEXT
from mmface.errors import InputError
from mmface.estimate.hardware import (
    CAPTION_BYTES,
    CAPTION_TOKENS,
    CPU_SECONDS,
    ENCODING,
    IMAGE_TOKENS,
    MASK_BYTES,
    PAINTING,
    PROMPT_TOKENS,
    SKETCH_BYTES,
    STRING_BYTES,
    TRAINING,
    WRITING,
    Figure,
    Machine,
)
from mmface.estimate.shapes import Shapes

FP32 = 4  # bytes


@dataclass(frozen=True)
class Line:
    """The estimate of one stage.

    Attributes:
        hours: wall time of the stage on the whole machine.
        size: bytes of the published dataset.
        sources: how both were computed, and from which figures.
    """

    stage: str
    hours: float
    size: float
    sources: tuple[str, ...]


def images_line(images: int, machine: Machine, photo: Figure) -> Line:
    hours, source = _cpu("images", images, machine)
    size = images * _row(IMAGES, {"image": photo.value, "mask": 0, "captions": 0, "note": 0})
    return Line("images", hours, size, (source, f"{photo.value / 1e3:g} kB per photograph ({photo.source})"))


def conditions_line(shapes: Shapes, images: int, machine: Machine) -> Line:
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
            f"{_flops(parser)} {names.parser} and {_flops(sketcher)} {names.sketcher} per photograph (counted)",
            f"{MASK_BYTES.value / 1e3:g} kB per mask ({MASK_BYTES.source})",
            f"{SKETCH_BYTES.value / 1e3:g} kB per sketch ({SKETCH_BYTES.source})",
        ),
    )


def captions_line(recipe: Recipe, images: int, machine: Machine) -> Line:
    count, captioner = recipe.data.captions_per_image, recipe.components.captioner
    size = images * _row(CAPTIONS, {"captions": count * CAPTION_BYTES.value})
    length = f"{CAPTION_BYTES.value:g} bytes per caption ({CAPTION_BYTES.source})"
    hours, source = _cpu("captions", images, machine)
    if captioner == "facts":
        return Line("captions", hours, size, (source, length))
    weights = _weights(recipe, "captioner")
    tokens = (IMAGE_TOKENS, PROMPT_TOKENS, CAPTION_TOKENS)
    flops = 2 * weights * sum(figure.value for figure in tokens) * count
    summands = " + ".join(f"{figure.value:g} ({figure.source})" for figure in tokens)
    sources = [
        f"{_flops(flops)} per photograph: 2 x {weights:g} parameters (from its name) x {count} captions x tokens: "
        f"{summands}"
    ]
    if recipe.components.rewriter is not None:
        weights = _weights(recipe, "rewriter")
        rewriting = 2 * weights * (PROMPT_TOKENS.value + 2 * count * CAPTION_TOKENS.value)
        flops += rewriting
        sources.append(
            f"{_flops(rewriting)} per photograph to rewrite captions: 2 x {weights:g} parameters (from its name) x "
            "tokens: the captions are read and written"
        )
    gpu = images * flops / _speed(machine, WRITING, "bf16")
    return Line("captions", max(gpu, hours), size, (*sources, length))


def text_line(shapes: Shapes, images: int, machine: Machine) -> Line:
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
            f"{_flops(flops)} per caption (counted, {name})",
            f"{count} x ({length} + 1) x {width} fp32 per photograph (shapes); an upper limit with padding",
        ),
    )


def latents_line(shapes: Shapes, pixels: int, images: int, machine: Machine) -> Line:
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
            f"{_flops(flops)} per image, {3 * views} images per photograph (counted, {shapes.recipe.components.vae})",
            f"{len(held)} x {views} x {' x '.join(map(str, shape))} fp32 per photograph (record and shapes)",
        ),
    )


def train_line(shapes: Shapes, number: int, phase: Phase, images: int, machine: Machine) -> Line:
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
            f"{samples:,} samples: {phase.total_steps(rows):,} steps of {phase.batch_size} over {rows:,} rows "
            f"(recipe; without the held-out rows, data.holdout {recipe.data.holdout:g})",
            f"{_flops(forward)} forward (counted), x {passes:.3g} (backward takes twice as much"
            f"{', recomputation once more' if passes > 3 else ''})",
            f"{weights:,} parameters fp32 (counted); {kept} checkpoints of {checkpoint / 1e9:.1f} GB while training",
        ),
    )


def samples_line(shapes: Shapes, machine: Machine) -> Line:
    recipe = shapes.recipe
    images, steps = recipe.evaluate.n + recipe.evaluate.n_sketch, recipe.sampling.num_inference_steps
    forward = shapes.transformer_flops(recipe.phases[-1].resolution)
    rows = Guidance.of(recipe.sampling).mean_rows
    hours = images * steps * rows * forward / _speed(machine, PAINTING, recipe.sampling.precision)
    # The generated image, the photograph and the drawing.
    size = images * 3 * SKETCH_BYTES.value
    work = f"{images} images x {steps} steps x {rows:.3g} (guidance) x {_flops(forward)} (counted)"
    return Line("samples", hours, size, (work, f"three images of {SKETCH_BYTES.value / 1e3:g} kB each (assumed)"))


def _weights(recipe: Recipe, role: str) -> float:
    """Number of parameters of a language model, from its name."""
    name = getattr(recipe.components, role)
    match = re.search(r"(\d+(?:\.\d+)?)B\b", name)
    if match is None:
        message = f"the size of {name} is not in its name; use a model with a size such as 8B in its name"
        raise InputError(message, field=f"components.{role}")
    return float(match[1]) * 1e9


def _speed(machine: Machine, share: Figure, precision: str) -> float:
    """FLOP per hour of the whole machine. Every known GPU computes bf16 natively."""
    peak = machine.gpu.fp32 if precision == "fp32" else machine.gpu.bf16
    return machine.gpus * peak * share.value * 3600


def _cpu(stage: str, rows: int, machine: Machine) -> tuple[float, str]:
    figure = CPU_SECONDS[stage]
    return rows * figure.value / machine.cpus / 3600, f"{figure.value:g} CPU s per photograph ({figure.source})"


def _row(schema: pa.Schema, sizes: dict[str, float]) -> float:
    """Bytes of one row: ``sizes`` for the columns in it, the length of a hash for other text, the width for numbers."""
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
