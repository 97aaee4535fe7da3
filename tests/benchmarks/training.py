"""Compares an iteration of our training loop with a straightforward loop; model, batch and text encoder are equal.

The straightforward loop opens one file per photograph and one caption file, runs the text encoder in the step over
padded captions, computes the unused text output of the last block, and updates optimizer and average parameter by
parameter. Our loop maps the datasets that the stages wrote. Shapes are those of the ``laptop`` recipe's first phase;
weights and latents are random; captions have 15 to 60 tokens.

Prints the ratio, the share of a step's time in matrix products and attention, and the share spent waiting for data.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mmface.config import Recipe
from mmface.config.load import load_recipe
from mmface.data.text import Text
from mmface.datasets.dataset import Dataset, Publisher, open_dataset
from mmface.datasets.manifest import Identity
from mmface.datasets.records import LATENTS, TEXT
from mmface.model import Conditioning, MMFaceDiT
from mmface.model.block import DualStreamBlock
from mmface.networks.components import load_text_encoder
from mmface.objectives import make_objective
from mmface.store import Store
from mmface.store.tables import to_parquet
from mmface.train.loop import apply, make_state
from mmface.train.optim import learning_rate
from mmface.train.parallel.world import World
from mmface.train.rows.batches import Draws
from mmface.train.rows.sets import TrainingSet, load_sets
from mmface.train.step import backward
from tests.benchmarks._common import finish, folder, parse, verdict

SPEED, PRODUCTS, WAIT = 1.6, 0.85, 0.02
CHANNELS, SIDE = 4, 16  # TAESD at 128 px
CLIP_B32 = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
TOKENS = 77
MATRIX = ("mm", "linear", "attention", "conv")


def main() -> None:
    given = parse(__doc__, rows=64, batch=32, steps=4)
    with folder(given.home) as place:
        recipe = make_recipe(place, given.batch)
        latents, text = make_datasets(place, recipe, given.rows)
        data = load_sets(latents, text, 0)[0]
        ours, theirs = Ours(recipe, data), Theirs.of(recipe, data, place / "files", latents, text)
        one, other = in_turn([ours, theirs], given.steps)
        print(f"     ours {one:.2f} s, straightforward {other:.2f} s an iteration of {given.batch}")
        held = [verdict("training iteration, straightforward over ours", other / one, SPEED, at_most=False, unit=" x")]
        held += [verdict("share of matrix products and attention", matrix_share(ours.step), PRODUCTS, at_most=False)]
        held += [verdict("share of the iteration that waits for data", ours.waited / ours.seconds, WAIT)]
    finish(held)


def in_turn(loops: list[Any], steps: int) -> list[float]:
    """Seconds per iteration of each loop: the median of ``steps`` after one warm-up step, taking turns."""
    taken: list[list[float]] = [[] for _ in loops]
    for _ in range(1 + steps):
        for loop, seconds in zip(loops, taken, strict=True):
            start = time.perf_counter()
            loop.step()
            seconds.append(time.perf_counter() - start)
    return [float(np.median(seconds[1:])) for seconds in taken]


class Ours:
    """Our training loop, one step at a time."""

    def __init__(self, recipe: Recipe, data: TrainingSet) -> None:
        self.recipe, self.data, self.world = recipe, data, World()
        self.phase = recipe.phases[0]
        self.state = make_state(recipe, data, self.world)
        self.objective = make_objective(**recipe.objective.model_dump())
        self.draws = Draws(recipe.seed, 0, self.phase.batch_size, 0.05, 0.05)
        self.waited = self.seconds = 0.0

    def step(self) -> None:
        """One iteration."""
        start = time.perf_counter()
        slots = self.world.slots(self.phase.batch_size)
        batches = self.draws.batch(self.data, self.state.step, slots).split(self.phase.accumulation)
        self.waited += time.perf_counter() - start
        size = self.phase.batch_size
        losses = backward(self.state.model, self.objective, batches, size, self.recipe.train, self.world)
        assert losses.finite
        apply(self.state, losses, learning_rate(self.state.step, self.phase, 1000))
        self.seconds += time.perf_counter() - start


@dataclass
class Theirs:
    """The straightforward training loop."""

    recipe: Recipe
    names: list[str]
    files: Path
    model: MMFaceDiT
    average: MMFaceDiT
    optimizer: torch.optim.Optimizer
    tokenizer: Any
    text_encoder: Any
    random: np.random.Generator

    @classmethod
    def of(cls, recipe: Recipe, data: TrainingSet, files: Path, latents: Dataset, text: Dataset) -> Theirs:
        """Builds the same model with a complete last block, and files of the same rows."""
        model = make_state(recipe, data, World()).model
        config = recipe.model
        model.blocks[-1] = DualStreamBlock(config.hidden_size, config.num_heads, config.mlp_ratio)
        train = recipe.train
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=train.betas, weight_decay=train.weight_decay)
        write_files(files, latents)
        names = [key.decode() for key in data.ids]
        loaded = load_text_encoder(recipe.components.text_encoder)
        return cls(recipe, names, files, model, copy.deepcopy(model), optimizer, *loaded, np.random.default_rng(0))

    def step(self) -> None:
        """One iteration."""
        size = self.recipe.phases[0].batch_size
        held, captions, drawn = [], [], self.random.integers((len(self.names), 10, 2), size=(size, 3))
        for row, caption, _ in drawn:
            held.append(torch.load(self.files / f"{self.names[row]}.pt", weights_only=True))
            captions.append((self.files / f"{self.names[row]}.txt").read_text().splitlines()[caption])
        tokens = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            output = self.text_encoder(tokens, output_hidden_states=True)
        image = torch.stack([one["image_mean"] for one in held])
        modality = torch.from_numpy(drawn[:, 2].copy())
        columns = ["sketch_mean" if sketch else "mask_mean" for sketch in modality]
        condition = torch.stack([one[column] for one, column in zip(held, columns, strict=True)])
        conditioning = Conditioning(condition, output.hidden_states[-2], output.pooler_output, modality)
        objective = make_objective(**self.recipe.objective.model_dump())
        noise, t = torch.randn_like(image), objective.timesteps(torch.rand(size))
        loss = objective(self.model, image, noise, t, conditioning).loss.mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.train.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for mean, parameter in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.mul_(0.999).add_(parameter, alpha=0.001)
        loss.item()


def matrix_share(step: Callable[[], None]) -> float:
    """Share of a step's CPU time in matrix products, convolutions and attention; prints the largest operators."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    spent = sorted(((one.key, one.self_cpu_time_total) for one in profiler.key_averages()), key=lambda one: -one[1])
    total = sum(seconds for _, seconds in spent)
    for name, seconds in spent[:12]:
        print(f"     {seconds / total:6.1%}  {name}")
    return sum(seconds for name, seconds in spent if any(word in name for word in MATRIX)) / total


def make_recipe(place: Path, batch: int) -> Recipe:
    """The laptop recipe with a random text encoder in the shape of CLIP ViT-B/32."""
    from transformers import CLIPTextConfig, CLIPTextModel

    encoder = place / "text_encoder"
    tokenizer, _ = load_text_encoder("zoo:clip")
    tokenizer.model_max_length = TOKENS
    tokenizer.save_pretrained(encoder)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=TOKENS, **CLIP_B32, **ends)
    torch.manual_seed(0)
    CLIPTextModel(config).save_pretrained(encoder)
    return load_recipe(
        "laptop",
        [
            f"components.text_encoder={encoder}",
            "data.text_padding=masked",
            f"phases.0.batch_size={batch}",
            "phases.0.accumulation=2",
        ],
    )


def make_datasets(place: Path, recipe: Recipe, rows: int) -> tuple[Dataset, Dataset]:
    """Publishes random moments and random captions like the stages."""
    random = np.random.default_rng(0)
    home, names = Store(place / "home"), [f"{row:064x}" for row in range(rows)]

    def latent() -> bytes:
        return random.standard_normal((CHANNELS, SIDE, SIDE), dtype=np.float32).tobytes()

    def caption() -> str:
        return " ".join(random.choice(WORDS, int(random.integers(13, 59))))

    moments = ("image_mean", "image_logvar", "mask_mean", "sketch_mean")
    latents = [{"id": name, "split": "train", **{column: latent() for column in moments}} for name in names]
    captions = [{"id": name, "captions": [caption() for _ in range(10)]} for name in names]
    publisher = Publisher(home, Identity(stage="latents-128", version=1, config={}))
    publisher.write("data/part-00000.parquet", to_parquet(latents, LATENTS))
    shapes = {
        "latent_views": 1,
        "latent_shape": [CHANNELS, SIDE, SIDE],
        "latent_mean": [0.0] * CHANNELS,
        "latent_std": [1.0] * CHANNELS,
    }
    made = open_dataset(publisher.publish({}, extra=shapes))
    publisher = Publisher(home, Identity(stage="text", version=1, config={}))
    stage = Text(recipe)
    stage.write_empty(publisher.store)
    publisher.write("data/part-00000.parquet", to_parquet(stage(captions).rows, TEXT))
    text = open_dataset(publisher.publish({}, extra={"text_shape": [10, TOKENS, CLIP_B32["hidden_size"]]}))
    (place / "files").mkdir(exist_ok=True)
    for row in captions:
        (place / "files" / f"{row['id']}.txt").write_text("\n".join(row["captions"]))
    return made, text


WORDS = ["a", "the", "woman", "man", "with", "red", "long", "hair", "and", "green", "eyes", "hat"]


def write_files(files: Path, latents: Dataset) -> None:
    """Writes one ``.pt`` file per row."""
    for row in latents.table().to_pylist():
        held = {
            name: torch.frombuffer(bytearray(row[name]), dtype=torch.float32).view(CHANNELS, SIDE, SIDE)
            for name in ("image_mean", "image_logvar", "mask_mean", "sketch_mean")
        }
        torch.save(held, files / f"{row['id']}.pt")


if __name__ == "__main__":
    main()
