"""Stored latents equal those of the encoder at any resolution and do not depend on the batch."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmface.config import Recipe
from mmface.data import latents
from mmface.data.latents import Latents, Originals
from mmface.imaging.labels import mask_to_png
from mmface.imaging.pixels import mask_to_tensor, sketch_to_tensor, to_tensor
from mmface.networks.vae import encode_moments, normalise
from tests import tiny

VAES = {"FLUX-like": tiny.kl_flux, "SD-like": tiny.kl, "AutoencoderDC": tiny.dc}


def png(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(array).save(sink, "PNG")
    return sink.getvalue()


def row(seed: int, side: int = 40) -> dict:
    random = np.random.default_rng(seed)
    return {
        "id": str(seed),
        "source": "photos",
        "split": "train",
        "image": png(random.integers(0, 256, (side, side + 10, 3), dtype=np.uint8)),
        "mask": mask_to_png(random.integers(0, 19, (side, side), dtype=np.uint8)),
        "sketch": png(random.integers(0, 256, (side, side), dtype=np.uint8)),
    }


def with_vae(recipe: Recipe, name: str, folder: Path) -> Recipe:
    VAES[name]().save_pretrained(folder)
    return recipe.model_copy(update={"components": recipe.components.model_copy(update={"vae": str(folder)})})


@pytest.mark.parametrize("name", VAES)
def test_stored_latents_are_those_of_the_encoder_and_do_not_depend_on_the_batch(
    tiny_recipe: Recipe, tmp_path: Path, name: str
):
    stage, rows = Latents(with_vae(tiny_recipe, name, tmp_path), 32), [row(seed) for seed in range(16)]
    together = stage(rows).rows
    assert [one for each in rows for one in stage([each]).rows] == together
    assert stage(rows[::-1]).rows == together[::-1]

    original = Originals(40.0)(rows[3])
    pixels = [to_tensor(original.image, 32), mask_to_tensor(original.mask, 32), sketch_to_tensor(original.sketch, 32)]
    vae = VAES[name]()
    mean, logvar = encode_moments(vae, torch.stack(pixels))
    made, extra = together[3], stage.extra()
    assert extra["latent_shape"] == list(mean.shape[1:]) == [16 if name == "FLUX-like" else 4, 8, 8]
    for column, expected in zip(("image_mean", "mask_mean", "sketch_mean"), mean, strict=True):
        assert made[column] == expected.numpy().tobytes()
    assert made["image_logvar"] == (None if logvar is None else logvar[0].numpy().tobytes())
    scale, shift = (torch.tensor(extra[key])[:, None, None] for key in ("latent_std", "latent_mean"))
    torch.testing.assert_close((mean - shift) / scale, normalise(vae, mean))
    assert float(shift.abs().max()) == 0


def test_resolutions_share_decoded_images(tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch):
    rows, sizes = [row(seed) for seed in range(3)], (16, 32)
    alone = [Latents(tiny_recipe, size, tiny.kl())(rows).rows for size in sizes]
    assert [len(made[0]["mask_mean"]) for made in alone] == [4 * 4 * 4 * 4, 4 * 4 * 8 * 8]

    opened: list[bytes] = []
    real = latents.square_picture
    monkeypatch.setattr(latents, "square_picture", lambda data, *limits: opened.append(data) or real(data, *limits))
    originals = Originals(tiny_recipe.data.max_megapixels)
    stages = [Latents(tiny_recipe, size, tiny.kl(), originals) for size in sizes]
    assert [stage(rows).rows for stage in stages] == alone
    assert opened == [one["image"] for one in rows]
    originals.forget()
    assert stages[0](rows).rows == alone[0]
    assert len(opened) == 6


def test_a_row_that_cannot_be_decoded_is_quarantined_at_every_resolution(tiny_recipe: Recipe):
    originals = Originals(tiny_recipe.data.max_megapixels)
    rows = [row(0), row(1) | {"sketch": b"none"}]
    for size in (16, 32):
        result = Latents(tiny_recipe, size, tiny.kl(), originals)(rows)
        assert [one["id"] for one in result.rows] == ["0"]
        assert [(one["id"], one["stage"]) for one in result.quarantined] == [("1", f"latents-{size}")]


def test_views_crop_photograph_mask_and_sketch_alike(tiny_recipe: Recipe):
    data = tiny_recipe.data.model_copy(update={"views": 5})
    recipe, rows = tiny_recipe.model_copy(update={"data": data}), [row(seed, 200) for seed in range(3)]
    stage, plain = Latents(recipe, 32, tiny.kl()), Latents(tiny_recipe, 32, tiny.kl())
    made = stage(rows).rows
    assert stage.extra()["latent_views"] == 5
    assert stage(rows[2:]).rows == made[2:]  # independent of the other rows
    for one, first in zip(made, plain(rows).rows, strict=True):
        for column in ("image_mean", "image_logvar", "mask_mean", "sketch_mean"):
            size = len(first[column])
            pieces = [one[column][start : start + size] for start in range(0, 5 * size, size)]
            assert pieces[0] == first[column]
            assert len(set(pieces)) == 5 == len(one[column]) // size


def test_a_view_keeps_photograph_and_labels_aligned():
    """All three images contain their own coordinates, which show where each view was cropped."""
    side = 200
    across = np.broadcast_to(np.arange(side, dtype=np.uint8), (side, side))
    labels = np.where(across < side // 2, 4, 5).astype(np.uint8)  # a left eye, then a right one
    whole = latents.Original(Image.fromarray(across).convert("RGB"), labels, Image.fromarray(across))
    boxes = set()
    for place, view in enumerate(whole.views("key", 9)):
        seen = np.asarray(view.sketch)
        np.testing.assert_array_equal(np.asarray(view.image)[..., 0], seen)
        assert view.mask.shape == seen.shape
        assert 0.75 * side - 1 <= seen.shape[0] == seen.shape[1] <= side
        mirrored = bool(seen[0, 0] > seen[0, -1])
        assert mirrored == bool(place % 2)
        # Mirroring exchanges the labels of left and right eye.
        np.testing.assert_array_equal(view.mask == 4, (seen < side // 2) != mirrored)
        boxes.add((int(seen.min()), int(seen.max())))
    assert (0, side - 1) in boxes
    assert len(boxes) == 9
