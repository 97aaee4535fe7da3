"""The models of the gate's benchmark: a trained demo model, and worse ones trained from it with the product's stage."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from mmface.config import Recipe
from mmface.config.load import load_recipe
from mmface.datasets.dataset import Dataset, Publisher, open_dataset, published
from mmface.datasets.manifest import Identity
from mmface.datasets.records import LATENTS, TEXT
from mmface.errors import DatasetError
from mmface.store import Store
from mmface.store.tables import to_parquet
from mmface.train.checkpoints.state import TRANSFORMER
from mmface.train.hooks import Hooks
from mmface.train.loop import train_phase
from mmface.train.rows.sets import load_sets

STEPS = 100  # of fine-tuning on shuffled rows
FEWER = 0.9
WORSE = ("shuffled captions", "shuffled masks", "fewer steps")
CAPTIONS = ("places", "lengths", "sequence", "pooled")


@dataclass(frozen=True)
class Trained:
    """A trained demo model with its recipe and the datasets of its last phase."""

    recipe: Recipe
    folder: Path  # holds ``transformer/``
    latents: Dataset
    text: Dataset
    previous: Dataset


def find_model(home: Path) -> Trained:
    """The newest model of two phases in a home. Raises DatasetError if there is none."""
    found = sorted(home.glob("datasets/train-1-*/*/manifest.json"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise DatasetError(f"{home} has no trained demo model: run MMFACE_HOME={home} mmface demo first", field="home")
    trained = open_dataset(str(found[-1].parent))
    recipe = load_recipe(str(found[-1].parent / "recipe.yaml"))
    inputs = {name: open_dataset(uri) for name, uri in trained.manifest.inputs.items()}
    return Trained(recipe, found[-1].parent, **inputs)


def shuffled(source: Dataset, columns: tuple[str, ...], work: Store) -> str:
    """Publishes a copy of a dataset in which other rows have the values of ``columns``; returns its URI."""
    manifest = source.manifest
    config = {**manifest.config, "shuffled": list(columns)}
    inputs = {**manifest.inputs, "source": source.uri}
    identity = Identity(stage=manifest.stage, version=1, config=config, inputs=inputs)
    found = published(work, identity)
    if found:
        return found
    table = source.table()
    order = np.random.default_rng(0).permutation(len(table))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)  # one cycle through all rows: no row keeps its own values
    for column in columns:
        table = table.set_column(table.column_names.index(column), column, table.column(column).take(pa.array(other)))
    publisher = Publisher(work, identity)
    schema = TEXT if manifest.stage == "text" else LATENTS
    publisher.write("data/part-00000.parquet", to_parquet(table.to_pylist(), schema))
    for file in manifest.files:
        if "/" not in file.path:
            publisher.write(file.path, source.read(file.path))
    return publisher.publish({"in": len(table), "out": len(table)}, extra=manifest.extra)


def train_model(name: str, base: Trained, work: Path) -> Path:
    """Trains one of the worse models unless ``work`` has it; returns the folder that holds ``transformer/``."""
    folder, home = work / "models" / name.replace(" ", "-"), Store(work)
    latents, text, last = base.latents.uri, base.text.uri, base.recipe.phases[-1]
    captions, masks, fewer = WORSE
    if name == fewer:
        steps = (f"phases.1.steps={round((last.steps or 0) * FEWER)}",)
        return _train(base, folder, steps, latents, text, Path(base.previous.uri))
    phase = (
        f"phases=[{{resolution: {last.resolution}, steps: {STEPS}, batch_size: {last.batch_size}, "
        f"learning_rate: {last.learning_rate}, warmup_steps: 10}}]"
    )
    tuned = (phase, f"train.start={base.folder / TRANSFORMER}", "train.ema_decay=0.9")
    if name == captions:
        return _train(base, folder, tuned, latents, shuffled(base.text, CAPTIONS, home))
    assert name == masks
    return _train(base, folder, tuned, shuffled(base.latents, ("mask_mean",), home), text)


def _train(
    base: Trained, folder: Path, settings: tuple[str, ...], latents: str, text: str, previous: Path | None = None
) -> Path:
    if (folder / TRANSFORMER / "config.json").exists():
        return folder
    torch.set_num_threads(os.cpu_count() or 1)
    recipe = load_recipe(str(base.folder / "recipe.yaml"), settings)
    rows, _ = load_sets(open_dataset(latents), open_dataset(text), 0)
    hooks = Hooks(lambda entry: None, lambda state: None)
    start = time.monotonic()
    state = train_phase(recipe, 1 if previous else 0, rows, hooks=hooks, held_out=None, previous=previous)
    state.ema.module.save_pretrained(folder / TRANSFORMER)
    print(f"     {folder.name}: {state.step} steps in {time.monotonic() - start:.0f} s", flush=True)
    return folder
