"""Trains on real photographs with masks at 128 px, from scratch to a grid of images, and measures held-out rows.

Every sixteenth photograph by name, starting with the first, is held out: 50 of 800. A VAE and a parser are trained on
the other photographs. Then the recipe ``faces`` is trained, and a second training continues from its weights. Every
step is a command that a user can run. Results are kept in ``--home``; a step that is done is not run again. Prints the
metrics of the held-out photographs and the locations of the grids.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import yaml

from mmface.datasets.dataset import Dataset, upstream
from mmface.datasets.inventory import scan
from mmface.store import Store

EVERY = 16
NETWORKS = ("vae", "parser")
SHOWN = ("miou", "source_miou", "accuracy", "ssim", "edge_agreement", "hair_colour_accuracy", "frechet")
LONGER = "{resolution: 128, steps: %d, batch_size: 16, learning_rate: 3.0e-4, warmup_steps: 20}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder with images/ and masks/ of the same names")
    parser.add_argument("--home", type=Path, required=True, help="folder for all results")
    parser.add_argument("--longer", type=int, default=9000, metavar="STEPS", help="steps of the second training")
    given = parser.parse_args()
    home = given.home.absolute()
    os.environ["MMFACE_HOME"] = str(home)
    recipe = write_recipe(given.photos.absolute(), home)
    train_networks(recipe, home / "networks")
    own = [f"components.{name}={home / 'networks' / name}" for name in NETWORKS]
    first = retrain(recipe, "faces", own)
    start = f"train.start={Path(first['bundle'].uri) / 'bundle'}"
    second = retrain(recipe, "faces-longer", [*own, start, f"phases=[{LONGER % given.longer}]"])
    for name, made in (("first", first), ("longer", second)):
        show(name, made)


def write_recipe(photos: Path, home: Path) -> Path:
    """Writes a recipe based on ``faces`` with these photographs and the lists of training and test rows."""
    names = sorted(path.stem for path in (photos / "images").iterdir())
    lists = home / "lists"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "test.txt").write_text("\n".join(names[::EVERY]))
    (lists / "train.txt").write_text("\n".join(name for i, name in enumerate(names) if i % EVERY))
    places = {"images": photos / "images", "masks": photos / "masks", "split": lists}
    collection = {"name": "faces"} | {name: str(place) for name, place in places.items()}
    recipe = home / "faces.yaml"
    recipe.write_text(yaml.safe_dump({"base": "faces", "sources": [collection]}))
    return recipe


def train_networks(recipe: Path, out: Path) -> None:
    """Trains VAE and parser on the photographs that are not held out."""
    missing = [name for name in NETWORKS if not (out / name / "config.json").exists()]
    if not missing:
        return
    images = run("ray_jobs.images", "--recipe", str(recipe))
    run("ray_jobs.conditions", "--recipe", str(recipe), "--inputs", f"images={images}")
    for name in missing:
        start = time.perf_counter()
        run("flows.cli", "zoo", "train", "--dataset", "conditions", "--only", name, "--out", str(out))
        print(f"{name}: trained in {(time.perf_counter() - start) / 60:.1f} min", flush=True)


def retrain(recipe: Path, name: str, settings: list[str]) -> dict[str, Dataset]:
    """Runs a retraining; returns its datasets by stage."""
    options = [part for one in [f"name={name}", *settings] for part in ("--set", one)]
    print(run("flows.cli", "retrain", "--recipe", str(recipe), *options), flush=True)
    bundles = [one for one in scan(Store(os.environ["MMFACE_HOME"])) if one.stage == "bundle" and one.manifest]
    [uri] = [one.key for one in bundles if one.manifest and one.manifest.config["name"] == name]
    return upstream(Store(os.environ["MMFACE_HOME"]).child(uri).uri)


def run(module: str, *arguments: str) -> str:
    """Runs a command; returns its stdout."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def show(name: str, made: dict[str, Dataset]) -> None:
    """Prints the metrics of one retraining."""
    trained = [dataset for stage, dataset in made.items() if stage.startswith("train-")]
    history = [json.loads(line) for line in trained[-1].read("history.jsonl").splitlines()]
    minutes = sum(dataset.manifest.seconds for dataset in trained) / 60
    print(f"{name}: {minutes:.1f} min of training, {len(made['images'].table(['id']))} photographs")
    last = {key: value for entry in history for key, value in entry.items() if key.startswith("held_out/")}
    figures = json.loads(made["bundle"].read("bundle/metrics.json"))
    chosen = {
        key: value
        for key, value in figures.items()
        if key.startswith(("mask/", "sketch/")) and key.split("/")[1].startswith(SHOWN)
    }
    for key, value in sorted((last | chosen).items()):
        print(f"     {key:44}{value:10.4f}")
    print(
        f"     pictures: {Store(os.environ['MMFACE_HOME']).child('reports').uri}/{made['bundle'].manifest.fingerprint}"
    )


if __name__ == "__main__":
    main()
