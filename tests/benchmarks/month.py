"""A month of nightly retrainings on a growing collection, with bad nights among them; each is one ``mmface retrain``.

Good nights add portraits. Bad nights train on captions of other portraits, for half of the steps, or with a damaged
VAE. On other nights nothing has changed. Prints a line per night and a verdict per bound: no bad version is served,
unchanged nights train nothing, every good version is promoted, every decision is explained. The small models paint
blurred heads: this tests decisions, not pictures. ``--home`` keeps all of it: the same command continues after the last
whole night.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from mmface.bundles import registry
from mmface.bundles.verdicts import read_decision
from mmface.config.environment import prepare_environment
from mmface.data.portraits import write_collection
from mmface.networks.places import resolve
from mmface.store import HOME_VARIABLE
from tests.benchmarks._common import finish, folder, parse, verdict

GOOD, UNCHANGED, CAPTIONS, HALF, VAE = "good", "unchanged", "poisoned captions", "half of the steps", "damaged VAE"
PATTERN = (GOOD, UNCHANGED, CAPTIONS, GOOD, HALF, GOOD, VAE)
NAME = "mmface-dit"
MODEL = ("model.hidden_size=128", "model.depth=4", "model.num_heads=4", "sampling.num_inference_steps=6")
BATCHES = "batch_size: 16, learning_rate: 2.0e-3, warmup_steps: 20"
# Half of the steps cost such a model 9 to 11 points of CLIP score; good nights differ by about 3.
COMPARE = "{mask/miou: {margin: 0.03}, mask/clip_score: {margin: 6}, mask/hair_colour_accuracy: {margin: 0.2}}"
LIMITS = ("gate.min_mask_miou=0.1", "gate.min_hair_colour=0.4")  # models of so few steps are far from the demo's
SIZES = {"first": 300, "nightly": 20, "steps": 400, "rows": 120, "side": 32}


@dataclass(frozen=True)
class Night:
    """What happened in one night.

    Attributes:
        version: the version that the night registered; None if it registered none.
        trained: training stages that the night ran.
        champion: after the night.
    """

    kind: str
    version: str | None
    verdict: str
    reason: str
    trained: int
    champion: str | None


def main() -> None:
    given = parse(__doc__, nights=30, **SIZES)
    with folder(given.home) as place:
        os.environ[HOME_VARIABLE] = str(place / "home")
        prepare_environment()
        log = place / "nights.jsonl"
        done = [Night(**json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []
        for number in range(given.nights):
            if number >= len(done):
                done.append(live_through(place, number, given, retrain))
                with log.open("a") as sink:
                    sink.write(json.dumps(asdict(done[-1])) + "\n")
            one = done[number]
            print(f"{number + 1:3} {one.kind:18} version {one.version or '-':>3} {one.verdict:11} {one.reason[:150]}")
    finish(judge(done))


def retrain(settings: Sequence[str]) -> None:
    """``mmface retrain`` as a process of its own; what it prints goes to stderr."""
    command = [sys.executable, "-m", "flows.cli", "retrain", "--recipe", "demo", "--on", "local"]
    subprocess.run([*command, *(part for one in settings for part in ("--set", one))], check=True, stdout=sys.stderr)


def live_through(place: Path, number: int, given: Any, retrain: Callable[[Sequence[str]], None]) -> Night:
    """One night: what arrives, the retraining, and what the registry says after it.

    Args:
        number: of the night, from 0.
        given: the options, as attributes.
        retrain: runs a retraining with overrides of the demo recipe.
    """
    kinds = list(islice(cycle(PATTERN), number + 1))
    kind = kinds[-1]
    count = given.first + given.nightly * kinds[1:].count(GOOD)
    photos = collect(place, count, kind, given.side)
    known, before = {one.version for one in registry.list_versions(NAME)}, trained(place)
    steps = given.steps // 2 if kind == HALF else given.steps
    places = f"images: {photos}/images, masks: {photos}/masks, captions: {photos}/captions.jsonl"
    settings = [
        f"sources=[{{name: portraits, {places}}}]",
        f"data.min_size={given.side}",
        "data.holdout=0.4",
        f"phases=[{{resolution: {given.side}, steps: {steps}, {BATCHES}}}]",
        f"evaluate.n={given.rows}",
        f"evaluate.n_sketch={given.rows // 4}",
        f"gate.compare={COMPARE}",
        *LIMITS,
        *MODEL,
    ]
    settings += [f"components.vae={damaged_vae(place)}"] if kind == VAE else []
    retrain(settings)
    new = [one.version for one in registry.list_versions(NAME) if one.version not in known]
    decision = read_decision(NAME, new[0]) if new else None
    champion = registry.get_alias(NAME, "champion")
    said = (decision.verdict, decision.reason) if decision else ("-", "nothing new")
    return Night(kind, new[0] if new else None, *said, trained(place) - before, champion)


def judge(nights: list[Night]) -> list[bool]:
    """One verdict per bound."""
    bad = [one for one in nights if one.kind in (CAPTIONS, HALF, VAE)]
    good = [one for one in nights if one.kind == GOOD]
    idle = [one for one in nights if one.kind == UNCHANGED]
    return [
        verdict("bad versions served", float(sum(one.champion == one.version for one in bad)), 0.0),
        verdict("unchanged nights that trained", float(sum(one.trained > 0 for one in idle)), 0.0),
        verdict("good versions not promoted", float(sum(one.champion != one.version for one in good)), 0.0),
        verdict("decisions without a reason", float(sum(not one.reason for one in nights)), 0.0),
    ]


def collect(place: Path, count: int, kind: str, side: int) -> Path:
    """The collection with its first ``count`` portraits; on a poisoned night with the captions of other portraits."""
    photos = place / "photos"
    present = len(list((photos / "images").iterdir())) if photos.is_dir() else 0
    if present < count:
        fresh = place / "fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        write_collection(fresh, count - present, side, present)
        for name in ("images", "masks"):
            (photos / name).mkdir(parents=True, exist_ok=True)
            for file in (fresh / name).iterdir():
                file.rename(photos / name / f"{present:06d}-{file.name}")
        with (photos / "right.jsonl").open("a") as sink:
            for line in (fresh / "captions.jsonl").read_text().splitlines():
                row = json.loads(line)
                sink.write(json.dumps(row | {"file": f"{present:06d}-{row['file']}"}) + "\n")
    rows = [json.loads(line) for line in (photos / "right.jsonl").read_text().splitlines()]
    if kind == CAPTIONS:
        order = np.random.default_rng(count).permutation(len(rows))
        rows = [row | {"captions": rows[i]["captions"]} for row, i in zip(rows, order, strict=True)]
    (photos / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return photos


def damaged_vae(place: Path) -> Path:
    """A copy of the zoo's VAE with noise in the weights of its decoder."""
    copy = place / "damaged-vae"
    if not copy.is_dir():
        shutil.copytree(resolve("zoo:vae"), copy)
        file = next(copy.glob("*.safetensors"))
        weights, generator = load_file(file), torch.Generator().manual_seed(0)
        for name, value in weights.items():
            if name.startswith("decoder") and value.ndim > 1:
                weights[name] = value + value.std() * torch.randn(value.shape, generator=generator).to(value.dtype)
        save_file(weights, file)
    return copy


def trained(place: Path) -> int:
    """Number of published training stages."""
    return len(list((place / "home" / "datasets").glob("train-*/*/manifest.json")))


if __name__ == "__main__":
    main()
