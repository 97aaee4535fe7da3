"""Reads training samples in random order: our datasets against one ``.pt`` file per row with the same tensors.

A sample is the latents of photograph and drawing, and one caption's text. With files, captions are lines of a text file
and are tokenised when read; our datasets store encoded captions. Both sides read the same samples in the same order
twice. The first pass fills the page cache, and the second pass is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmface.datasets.dataset import Dataset, open_dataset
from mmface.networks.components import load_text_encoder
from mmface.store import Store
from mmface.train.rows.sets import TrainingSet, load_sets
from tests.benchmarks._common import ORDER, finish, folder, parse, pictures, recipe_of, run_job, settings, verdict

LIMIT = 10.0
LATENTS = ("image_mean", "image_logvar", "mask_mean", "sketch_mean")


def main() -> None:
    given = parse(__doc__, images=2000, samples=4000, shard=64)
    torch.set_num_threads(1)
    with folder(given.home) as place:
        options = settings(pictures(place, given.images), f"data.shard_rows={given.shard}", "data.holdout=0")
        home, made = Store(place / f"home-{given.images}"), {}
        for stage in ORDER:
            run_job(stage, home, options, made)
        latents, text, captions = (open_dataset(made[name]) for name in ("latents", "text", "captions"))
        start = time.perf_counter()
        data = load_sets(latents, text, 0)[0]
        print(f"     {len(data)} rows mapped once in {time.perf_counter() - start:.2f} s")
        files = place / f"files-{given.images}"
        write_files(files, latents, captions)
        tokenizer = load_text_encoder(recipe_of(options).components.text_encoder)[0]

        random = np.random.default_rng(0)
        count = recipe_of(options).data.captions_per_image
        samples = [tuple(pair) for pair in random.integers((len(data), count, 2), size=(given.samples, 3)).tolist()]
        ours = rate(lambda row, caption, drawing: read_ours(data, row, caption, drawing), samples)
        names = [key.decode() for key in data.ids]
        theirs = rate(lambda row, caption, drawing: read_file(files / names[row], tokenizer, caption, drawing), samples)
    print(f"     ours {ours:,.0f} samples/s, files {theirs:,.0f} samples/s")
    finish([verdict("reading, ours over files", ours / theirs, LIMIT, at_most=False, unit=" x")])


def read_ours(data: TrainingSet, row: int, caption: int, drawing: int) -> list[torch.Tensor]:
    """Reads one sample from the mapped arrays: photograph (mean and deviation), drawing, sequence and pooled text."""
    arrays = [data.image[row], data.conditions[drawing][row], *data.texts.read(row, caption)]
    if data.image_std is not None:
        arrays.append(data.image_std[row])
    return [torch.from_numpy(np.array(array)) for array in arrays]


def read_file(stem: Path, tokenizer: Any, caption: int, drawing: int) -> list[Any]:
    """Reads the same sample from files; its text is tokens only, which a text encoder would still have to encode."""
    held = torch.load(stem.with_suffix(".pt"), weights_only=True)
    line = stem.with_suffix(".txt").read_text(encoding="utf-8").splitlines()[caption]
    tokens = tokenizer(line, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return [held["image_mean"], held["image_logvar"], held["sketch_mean" if drawing else "mask_mean"], tokens]


def write_files(place: Path, latents: Dataset, captions: Dataset) -> None:
    """Writes one ``.pt`` and one ``.txt`` file per row."""
    place.mkdir(exist_ok=True)
    shape = tuple(latents.manifest.extra["latent_shape"])
    for part in latents.parts():
        for row in latents.part(part.path).to_pylist():
            held = {
                name: None
                if row[name] is None
                else torch.frombuffer(bytearray(row[name]), dtype=torch.float32).view(shape)
                for name in LATENTS
            }
            torch.save(held, place / f"{row['id']}.pt")
    for row in captions.table(["id", "captions"]).to_pylist():
        (place / f"{row['id']}.txt").write_text("\n".join(row["captions"]), encoding="utf-8")


def rate(read: Callable[[int, int, int], object], samples: list[tuple[int, int, int]]) -> float:
    """Samples per second in the second of two passes."""
    for _ in range(2):
        start = time.perf_counter()
        for sample in samples:
            read(*sample)
        seconds = time.perf_counter() - start
    return len(samples) / seconds


if __name__ == "__main__":
    main()
