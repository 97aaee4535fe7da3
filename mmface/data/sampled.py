"""Which photographs the ``drift`` stage compares: a random sample of the new ones and one of the training set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from mmface.config import Recipe
from mmface.datasets.dataset import Dataset
from mmface.datasets.parts import DATA, part_names


def draw(recipe: Recipe, images: Dataset, training: Dataset) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Ids of new photographs and of training photographs, by the part that has them; ``drift.rows`` of each at most.

    New are photographs of ``images`` that ``training`` does not have. Only rows to learn from are drawn, since
    held-out rows of a collection may be chosen by a list.
    """
    known = {key for keys in _ids(training, ("train", "test")).values() for key in keys}
    fresh = {part: [key for key in keys if key not in known] for part, keys in _ids(images, ("train",)).items()}
    learnt = _ids(training, ("train",))
    return _sample(fresh, recipe.drift.rows, recipe.seed), _sample(learnt, recipe.drift.rows, recipe.seed)


def _ids(dataset: Dataset, splits: Iterable[str]) -> dict[str, list[str]]:
    found = {}
    for part in part_names(dataset):
        rows = dataset.part(f"{DATA}/{part}", ["id", "split"]).to_pylist()
        found[part] = [row["id"] for row in rows if row["split"] in splits]
    return found


def _sample(ids: dict[str, list[str]], rows: int, seed: int) -> dict[str, list[str]]:
    """The ``rows`` ids with the smallest hashes: independent of how the parts are cut."""
    everything = [key for keys in ids.values() for key in keys]
    order = sorted(everything, key=lambda key: hashlib.sha256(f"{seed} {key}".encode()).digest())
    chosen = set(order[:rows])
    kept = {part: [key for key in keys if key in chosen] for part, keys in ids.items()}
    return {part: keys for part, keys in kept.items() if keys}
