"""``mmface generate``: images with a registered model, without a server."""

from __future__ import annotations

import secrets
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmface.errors import InputError

MAX_N = 8


def add_command(commands: Any) -> None:
    """Adds the command to the command line."""
    text = "Generate images with a registered model, without a server."
    command = commands.add_parser("generate", help=text, description=text)
    drawing = command.add_mutually_exclusive_group(required=True)
    text = "mask: palette image, label indices, or colours of the palette"
    drawing.add_argument("--mask", type=Path, metavar="PNG", help=text)
    drawing.add_argument("--sketch", type=Path, metavar="PNG", help="dark lines on white")
    command.add_argument("--prompt", required=True)
    command.add_argument("--negative-prompt", default="")
    command.add_argument("--seed", type=int, default=0, help="seed of the first image; each further image adds 1")
    command.add_argument("--n", type=int, default=1, help="number of images, 1 to 8")
    command.add_argument("--steps", type=int, help="denoising steps (default: the model's recipe)")
    for name in ("guidance-scale", "drawing-guidance-scale", "guidance-start", "guidance-end"):
        command.add_argument(f"--{name}", type=float, help="default: the model's recipe")
    command.add_argument("--model", default="mmface-dit@champion", metavar="NAME@ALIAS|NAME@VERSION")
    command.add_argument("--out", type=Path, default=Path("generated.png"), help="PNG; numbered when n > 1")
    command.set_defaults(run=generate)


def generate(arguments: Namespace) -> int:
    """``mmface generate``: prints the paths of the images."""
    for path in paint(arguments):
        print(path)
    return 0


def paint(arguments: Namespace) -> list[Path]:
    """Writes the images that ``mmface generate`` asks for and returns their paths."""
    _check_output(arguments.n, arguments.out)
    modality = "mask" if arguments.mask else "sketch"
    data = _read(arguments.mask or arguments.sketch, f"--{modality}")

    import numpy as np
    from diffusers.utils.logging import disable_progress_bar

    from mmface.bundles.registry import load_bundle
    from mmface.config.guidance import Guidance
    from mmface.data.sources import open_image
    from mmface.imaging.labels import mask_from_png
    from mmface.imaging.pixels import mask_to_tensor, sketch_to_tensor
    from serve.pictures.provenance import Provenance, encode

    disable_progress_bar()  # loading takes only a second
    drawing = open_image(data, field=f"--{modality}")
    name, _, version = arguments.model.partition("@")
    bundle = load_bundle(name, version or "champion")
    size, sampling = bundle.recipe.phases[-1].resolution, bundle.recipe.sampling
    steps = sampling.num_inference_steps if arguments.steps is None else arguments.steps
    guidance = Guidance.of(sampling, arguments)
    if modality == "mask":
        tensor = mask_to_tensor(mask_from_png(data), size, bundle.pipeline.config["mask_resize"])
    else:
        tensor = sketch_to_tensor(drawing, size)
    painted = bundle.pipeline(
        arguments.prompt,
        tensor[None].expand(arguments.n, -1, -1, -1),
        modality,
        negative_prompt=arguments.negative_prompt,
        num_inference_steps=steps,
        **asdict(guidance),
        seeds=arguments.seed,
    )
    paths = _paths(arguments.n, arguments.out)
    request_id = secrets.token_hex(8)
    for path, image, seed in zip(paths, painted.images, painted.seeds, strict=True):
        known = {"num_inference_steps": steps, **asdict(guidance), "sampler": sampling.sampler}
        made = Provenance(seed, request_id, name, bundle.version, **known)
        path.write_bytes(encode(np.asarray(image), made))
    return paths


def _check_output(n: int, out: Path) -> None:
    if not 1 <= n <= MAX_N:
        raise InputError(f"{n} images are out of range; ask for 1 to {MAX_N}", field="--n")
    if out.is_dir():
        raise InputError(f"{out} is a folder; name a file in it", field="--out")
    if not out.absolute().parent.is_dir():
        raise InputError(f"there is no folder {out.absolute().parent}; create it or choose another", field="--out")


def _paths(n: int, out: Path) -> list[Path]:
    """Where ``n`` images are written: ``out``, numbered when there are several."""
    return [out if n == 1 else out.with_stem(f"{out.stem}-{i}") for i in range(n)]


def _read(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror})", field=field) from None
