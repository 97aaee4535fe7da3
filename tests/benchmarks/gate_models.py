"""The models of the gate's benchmark: a trained demo model, and worse ones trained from it with the product's stage."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

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


def train_models(base: Trained, work: Path) -> dict[str, Path]:
    """Trains the worse models unless ``work`` has them; returns the folders that hold ``transformer/``."""
    home = Store(work)
    last = base.recipe.phases[-1]
    phase = (
        f"phases=[{{resolution: {last.resolution}, steps: {STEPS}, batch_size: {last.batch_size}, "
        f"learning_rate: {last.learning_rate}, warmup_steps: 10}}]"
    )
    tuned = (phase, f"train.start={base.folder / TRANSFORMER}", "train.ema_decay=0.9")
    fewer = (f"phases.1.steps={round((last.steps or 0) * FEWER)}",)
    captions, masks = shuffled(base.text, CAPTIONS, home), shuffled(base.latents, ("mask_mean",), home)
    made = {name: work / "models" / name.replace(" ", "-") for name in WORSE}
    _train(base, made["shuffled captions"], tuned, base.latents.uri, captions)
    _train(base, made["shuffled masks"], tuned, masks, base.text.uri)
    _train(base, made["fewer steps"], fewer, base.latents.uri, base.text.uri, Path(base.previous.uri))
    return made


def _train(
    base: Trained, folder: Path, settings: tuple[str, ...], latents: str, text: str, previous: Path | None = None
) -> None:
    if (folder / TRANSFORMER / "config.json").exists():
        return
    recipe = load_recipe(str(base.folder / "recipe.yaml"), settings)
    rows, _ = load_sets(open_dataset(latents), open_dataset(text), 0)
    hooks = Hooks(lambda entry: None, lambda state: None)
    start = time.monotonic()
    state = train_phase(recipe, 1 if previous else 0, rows, hooks=hooks, held_out=None, previous=previous)
    state.ema.module.save_pretrained(folder / TRANSFORMER)
    print(f"     {folder.name}: {state.step} steps in {time.monotonic() - start:.0f} s", flush=True)
