"""Commands on registered models: generate images, list versions, move the champion alias."""

from __future__ import annotations

import secrets
from argparse import Namespace
from datetime import datetime
from pathlib import Path

from mmface.errors import InputError

MAX_N = 8


def paint(arguments: Namespace) -> list[Path]:
    """``mmface generate``: writes the images and returns their paths."""
    _check_output(arguments.n, arguments.out)
    modality = "mask" if arguments.mask else "sketch"
    data = _read(arguments.mask or arguments.sketch, f"--{modality}")

    import numpy as np
    from diffusers.utils.logging import disable_progress_bar

    from mmface.bundles.registry import load_bundle
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
    guidance = sampling.guidance_scale if arguments.guidance_scale is None else arguments.guidance_scale
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
        guidance_scale=guidance,
        seeds=arguments.seed,
    )
    paths = _paths(arguments.n, arguments.out)
    request_id = secrets.token_hex(8)
    for path, image, seed in zip(paths, painted.images, painted.seeds, strict=True):
        made = Provenance(seed, request_id, name, bundle.version, steps, guidance, sampling.sampler)
        path.write_bytes(encode(np.asarray(image), made))
    return paths


def show_versions(name: str) -> int:
    """``mmface runs``: every registered version of a model, newest first."""
    from mmface.bundles.registry import list_versions

    versions = list_versions(name)
    if not versions:
        print(f"no version of {name} is registered yet; run mmface retrain")
    for one in versions:
        made = datetime.fromtimestamp(one.created).isoformat(" ", "minutes")
        print(f"{one.name} {one.version:>4}  {made}  run {one.run_id}  {', '.join(one.aliases)}")
    return 0


def roll_back(arguments: Namespace) -> int:
    """``mmface rollback``: makes the previous champion the champion again; running services follow."""
    from flows.steps import champions
    from mmface.config.load import load_recipe
    from mmface.store import home

    name = load_recipe(arguments.recipe, arguments.set).serve.model_name
    removed, back = champions.roll_back(home(), name, arguments.version, arguments.why)
    print(f"version {removed} of {name} was rolled back; champion is version {back} again")
    return 0


def promote(arguments: Namespace) -> int:
    """``mmface promote``: makes a version champion without the gate; running services follow."""
    from flows.steps.promotion import promote_by_hand

    before = promote_by_hand(arguments.recipe, tuple(arguments.set), arguments.version, arguments.why)
    print(f"champion is version {arguments.version}; before it: {before or 'none'}")
    return 0


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
