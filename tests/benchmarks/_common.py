"""Shared by the benchmarks: options, thousands of small photographs, starting jobs like a flow, verdicts."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from mmface import plan
from mmface.config import Recipe
from mmface.config.load import load_recipe
from mmface.data.portraits import write_collection
from mmface.datasets.manifest import Identity
from mmface.store import Store

os.environ.setdefault("OMP_NUM_THREADS", "1")  # both sides of a comparison use one thread
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

ORDER = ("images", "conditions", "captions", "text", "latents")
DRAWN = 16


def parse(about: str | None, argv: Sequence[str] | None = None, **numbers: int) -> argparse.Namespace:
    """Parses the options of a benchmark: ``numbers`` with their defaults, ``--home`` and ``--stages``."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in numbers.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"default: {default}")
    parser.add_argument("--home", type=Path, help="keep photographs and datasets here (default: a temporary folder)")
    parser.add_argument("--stages", default=",".join(ORDER), help=f"run some of {','.join(ORDER)}, in this order")
    return parser.parse_args(argv)


@contextmanager
def folder(given: Path | None) -> Iterator[Path]:
    """The folder that ``--home`` names, or a temporary folder."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.absolute()
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)


def pictures(place: Path, count: int, side: int = 64) -> Path:
    """A folder of ``count`` JPEG files: drawn portraits mixed with random colours, so that no two are alike."""
    photos = place / f"pictures-{count}"
    if photos.is_dir() and len(list(photos.iterdir())) == count:
        return photos
    with tempfile.TemporaryDirectory() as drawn:
        write_collection(Path(drawn), DRAWN, side, 0)
        faces = [np.asarray(Image.open(path).convert("RGB"), np.float32) for path in Path(drawn, "images").iterdir()]
    photos.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        random = np.random.default_rng(number)
        light = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((side, side))
        mixed = 0.5 * faces[number % DRAWN] + 0.5 * np.asarray(light, np.float32)
        Image.fromarray(mixed.astype(np.uint8)).save(photos / f"{number:06d}.jpg", quality=95)
    return photos


def settings(photos: Path, *more: str) -> list[str]:
    """Overrides of the demo recipe: the given photographs, one worker, one resolution."""
    phase = "phases=[{resolution: 64, steps: 1, batch_size: 1}]"
    return [f"sources=[{{name: pictures, images: {photos}}}]", "data.min_size=32", "data.workers=1", phase, *more]


def recipe_of(given: Sequence[str]) -> Recipe:
    """The demo recipe with overrides."""
    return load_recipe("demo", list(given))


def identity_of(stage: str, recipe: Recipe, home: Store, made: dict[str, str]) -> Identity:
    """The identity of a stage whose input datasets are in ``made``."""
    if stage == "portraits":
        return plan.portraits(recipe)
    if stage == "images":
        return plan.images(recipe, home)
    if stage == "conditions":
        return plan.conditions(recipe, made["images"])
    if stage == "captions":
        return plan.captions(recipe, made["images"], made["conditions"])
    if stage == "text":
        return plan.text(recipe, made["captions"])
    return plan.latents(recipe, recipe.resolutions[0], made["images"], made["conditions"])


def run_job(stage: str, home: Store, given: Sequence[str], made: dict[str, str]) -> str:
    """Runs the job of a stage like a flow; returns the dataset's URI and adds it to ``made``."""
    arguments = ["--recipe", "demo", "--home", home.uri]
    arguments += [part for one in given for part in ("--set", one)]
    identity = identity_of(stage, recipe_of(given), home, made)
    arguments += [part for name, uri in identity.inputs.items() for part in ("--inputs", f"{name}={uri}")]
    for name in ("ray.data", "ray.data._internal.execution.streaming_executor"):
        logging.getLogger(name).setLevel(logging.ERROR)
    importlib.import_module(f"ray_jobs.{stage}").main(arguments)
    made[stage] = home.child(identity.key).uri
    return made[stage]


def verdict(what: str, figure: float, limit: float, *, at_most: bool = True, unit: str = "") -> bool:
    """Prints a figure next to its limit; returns whether the figure is within the limit."""
    holds = figure <= limit if at_most else figure >= limit
    sign = "<=" if at_most else ">="
    print(f"{'ok  ' if holds else 'FAIL'} {what}: {figure:.3g}{unit} ({sign} {limit:g}{unit})", flush=True)
    return holds


def finish(held: Sequence[bool]) -> None:
    """Ends the process; the exit code is 1 if a figure is not within its limit."""
    sys.exit(int(not all(held)))
