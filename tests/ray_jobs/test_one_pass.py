"""The worker of the latents job, without Ray: one pass over a part makes every missing resolution."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from mmface import plan
from mmface.config import Phase, Recipe
from mmface.config.load import load_recipe
from mmface.data import latents
from mmface.data.latents import Latents
from mmface.datasets.dataset import Publisher, open_dataset
from mmface.datasets.manifest import Identity
from mmface.datasets.part_worker import PartWorker, Runner
from mmface.datasets.records import CONDITIONS, IMAGES
from mmface.imaging.labels import mask_to_png
from mmface.store import Store
from mmface.store.tables import to_parquet
from ray_jobs.latents import OnePass, publish_size
from tests import tiny

PARTS = ["part-00000.parquet", "part-00001.parquet"]


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    tiny.kl().save_pretrained(tmp_path / "vae")
    phases = tuple(Phase(resolution=size, steps=1) for size in (16, 32))
    return load_recipe("demo", [f"components.vae={tmp_path}/vae"]).model_copy(update={"phases": phases})


def png(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(array).save(sink, "PNG")
    return sink.getvalue()


def publish(store: Store) -> list[str]:
    random = np.random.default_rng(0)
    images, conditions = (Publisher(store, Identity(stage=name, version=1, config={})) for name in "ab")
    for part in PARTS:
        ids = [f"{part}-{i}" for i in range(3)]
        photos = [png(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in ids]
        mask, sketch = mask_to_png(np.ones((32, 32), np.uint8)), png(np.ones((32, 32), np.uint8))
        rows = [{"id": key, "split": "train", "image": photo} for key, photo in zip(ids, photos, strict=True)]
        images.write(f"data/{part}", to_parquet(rows, IMAGES))
        conditions.write(
            f"data/{part}", to_parquet([{"id": key, "mask": mask, "sketch": sketch} for key in ids], CONDITIONS)
        )
    return [publisher.publish({}) for publisher in (images, conditions)]


def test_a_part_is_decoded_once_for_all_missing_resolutions(recipe: Recipe, tmp_path, monkeypatch: pytest.MonkeyPatch):
    decoded: list[bytes] = []
    encoded: Counter[int] = Counter()
    real_picture, real_encode = latents.square_picture, latents.encode_moments
    monkeypatch.setattr(
        latents, "square_picture", lambda data, *limits: decoded.append(data) or real_picture(data, *limits)
    )
    monkeypatch.setattr(latents, "encode_moments", lambda vae, x: encoded.update([x.shape[-1]]) or real_encode(vae, x))
    store = Store(tmp_path / "home")
    identities = {size: plan.latents(recipe, size, *publish(store)) for size in recipe.resolutions}
    # As after a kill: the first part of one resolution exists.
    small = store.child(identities[16].key)
    Runner(small, "data", lambda: PartWorker(identities[16], store, Latents(recipe, 16))).run(PARTS[0])
    assert (len(decoded), encoded) == (3, {16: 3})

    mark = "work/pass"
    large = store.child(identities[32].key)
    runner = Runner(large, mark, lambda: OnePass(identities, store, recipe, mark))
    assert [runner.run(part) for part in PARTS] == [3, 3]
    assert len(decoded) == 3 + 6
    assert encoded == {16: 6, 32: 6}
    assert {file.key for file in large.list(mark)} == {f"{mark}/{part}" for part in PARTS}
    large.delete(f"{mark}/{PARTS[0]}")
    assert runner.run(PARTS[0]) == 0
    assert len(decoded) == 9

    for size, identity in identities.items():
        made = open_dataset(publish_size(PARTS, recipe, Publisher(store, identity)))
        assert made.manifest.counts["out"] == 6
        assert made.manifest.extra["latent_shape"] == [4, size // 4, size // 4]
        assert made.manifest.stage == f"latents-{size}"
        assert all(file.path.startswith(("data/", "quarantine/")) for file in made.manifest.files)
