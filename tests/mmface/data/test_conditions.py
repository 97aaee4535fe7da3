"""Masks and sketches of photographs: parsed masks, supplied masks, and outliers."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from mmface import plan
from mmface.config import Phase, Quality, Recipe
from mmface.config.load import load_recipe
from mmface.data.conditions import Conditions, Parser, Sketcher, measure, outlier
from mmface.data.latents import Latents
from mmface.data.sources import open_image
from mmface.datasets.manifest import Identity
from mmface.errors import RecipeError
from mmface.imaging.labels import LABELS, MIRRORED, PALETTE, mask_from_png, mask_to_png
from mmface.imaging.pixels import center_square
from tests import tiny

SIZES = [(32, 32), (48, 48), (40, 40), (32, 32), (64, 64)]


def png(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


def photo(seed: int, size: tuple[int, int]) -> Image.Image:
    rough = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC)


def row(seed: int, size: tuple[int, int] = (40, 32), mask: bytes | None = None) -> dict:
    return {"id": str(seed), "image": png(photo(seed, size)), "mask": mask, "width": size[0], "height": size[1]}


def test_labels_mirror_by_name():
    for label, mirrored in enumerate(MIRRORED):
        name = LABELS[label]
        other = {"l": "r", "r": "l"}.get(name[0], name[0]) + name[1:]
        paired = name[1:] in ("_eye", "_brow", "_ear")
        assert LABELS[mirrored] == (other if paired else name)
    assert np.array_equal(MIRRORED[MIRRORED], np.arange(len(LABELS)))


def test_a_mask_has_the_size_of_its_photograph_and_does_not_depend_on_the_batch(tiny_recipe: Recipe):
    images = [photo(i, size) for i, size in enumerate(SIZES)]
    parser = Parser(tiny_recipe.components.parser, batch=4)
    together = parser(images)
    assert [mask.shape[::-1] for mask in together] == SIZES
    assert len(np.unique(together[0])) > 1
    for image, mask in zip(images, together, strict=True):
        assert np.array_equal(parser([image])[0], mask)
    assert parser([]) == []


def test_with_flips_averaged_a_mirrored_photograph_has_the_mirrored_mask(tiny_recipe: Recipe):
    plain, both = (Parser(tiny_recipe.components.parser, flip=flip) for flip in (False, True))
    for seed in range(4):
        picture = photo(seed, (32, 32))
        mirror = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mirrored = MIRRORED[both([mirror])[0][:, ::-1]]
        assert (both([picture])[0] == mirrored).mean() > 0.999
        assert (plain([picture])[0] == MIRRORED[plain([mirror])[0][:, ::-1]]).mean() < 0.9


@torch.inference_mode()
def test_the_average_is_over_logits_and_the_argmax_at_full_size(tiny_recipe: Recipe):
    picture, model = photo(3, (64, 64)), tiny.parser()
    parser = Parser(tiny_recipe.components.parser, flip=True)
    pixels = parser.processor(images=[picture], return_tensors="pt")["pixel_values"]
    one, other = (model(pixel_values=x).logits for x in (pixels, pixels.flip(-1)))
    logits = (one + other.flip(-1)[:, [0, 1, 2, 3, 5, 4, 7, 6, 9, 8, *range(10, 19)]]) / 2
    full = torch.nn.functional.interpolate(logits, size=(64, 64), mode="bilinear", align_corners=False)
    assert np.array_equal(parser([picture])[0], full[0].argmax(0).numpy())


def test_a_sketch_does_not_depend_on_the_batch(tiny_recipe: Recipe):
    images = [photo(i, size) for i, size in enumerate(SIZES)]
    sketcher = Sketcher(tiny_recipe.components.sketcher)
    for image, sketch in zip(images, sketcher(images), strict=True):
        assert sketch.shape == image.size[::-1]
        assert np.array_equal(sketcher([image])[0], sketch)


def grey(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(mask)


FORMS: dict[str, Callable[[np.ndarray], bytes]] = {
    "palette": mask_to_png,
    "grey": lambda mask: png(grey(mask)),
    "colours": lambda mask: png(Image.fromarray(PALETTE[mask])),
    "grey indices as RGB": lambda mask: png(grey(mask).convert("RGB")),
    "grey palette": lambda mask: png(grey(mask).convert("P")),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_supplied_mask_of_any_format_is_stored_as_labels(tiny_recipe: Recipe, form: str):
    mask = np.random.default_rng(0).integers(0, 19, (16, 20), dtype=np.uint8)
    (made,) = Conditions(tiny_recipe)([row(0, (40, 32), FORMS[form](mask))]).rows
    assert made["mask_origin"] == "supplied"
    assert np.array_equal(mask_from_png(made["mask"]), mask[:, 2:18].repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (png(Image.new("L", (40, 32), 19)), "label 19 is not among"),
        (png(Image.new("RGB", (40, 32), (200, 200, 200))), "label 200 is not among"),
        (png(Image.new("RGB", (40, 32), (1, 2, 3))), "colour"),
        (png(Image.new("I;16", (40, 32), 3)), "mode I;16 is not a mask"),
        (mask_to_png(np.zeros((32, 32), np.uint8)), "another aspect"),
        (b"GIF89a", "not a readable image"),
    ],
)
def test_a_bad_supplied_mask_quarantines_its_row(tiny_recipe: Recipe, mask: bytes, message: str):
    result = Conditions(tiny_recipe)([row(0), row(1, mask=mask), row(2)])
    assert [made["id"] for made in result.rows] == ["0", "2"]
    (bad,) = result.quarantined
    assert (bad["id"], bad["error"]) == ("1", "invalid_input:mask")
    assert message in bad["message"]


def test_figures_and_outlier_of_a_row():
    labels, sketch = np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8)
    labels[:2] = 1
    labels[0, 0] = 13
    sketch[0, :2] = 0
    figures = measure(labels, sketch)
    assert figures == {"face_area": 7 / 16, "label_coverage": 3 / 19, "edge_density": 2 / 16}
    assert outlier(figures, Quality(label_coverage=(0, 1))) is None
    assert outlier(figures, Quality()) == "label_coverage"
    assert outlier(figures, Quality(edge_density=(0.2, 0.4), label_coverage=(0, 1))) == "edge_density"
    assert outlier(figures, Quality(face_area=(0.5, 0.8))) == "face_area"


def test_rows_have_their_figures_and_do_not_depend_on_the_batch(tiny_recipe: Recipe):
    data = tiny_recipe.data.model_copy(update={"quality": Quality(face_area=(1, 1)), "parse_flip": True})
    stage = Conditions(tiny_recipe.model_copy(update={"data": data}))
    blank = mask_to_png(np.zeros((32, 40), np.uint8))
    rows = [row(0), row(1, (64, 64)), row(2, mask=blank), row(3, (48, 50))]
    made = stage(rows).rows
    assert [one for each in rows for one in stage([each]).rows] == made
    assert [one["id"] for one in stage(rows[::-1]).rows] == ["3", "2", "1", "0"]
    assert made[2] | {"mask": b"", "sketch": b"", "edge_density": 0} == {
        **{"id": "2", "mask": b"", "sketch": b"", "edge_density": 0},
        **{"face_area": 0.0, "label_coverage": 1 / 19, "outlier": "face_area", "mask_origin": "supplied"},
    }


def test_conditions_and_latents_use_the_size_of_the_largest_phase(tiny_recipe: Recipe):
    large = tiny_recipe.model_copy(update={"phases": (*tiny_recipe.phases, Phase(resolution=1024, steps=1))})
    wide = row(0, (700, 600))
    (usual,), (made,) = (Conditions(recipe)([wide]).rows for recipe in (tiny_recipe, large))
    assert mask_from_png(usual["mask"]).shape == (512, 512)
    assert mask_from_png(made["mask"]).shape == (600, 600)
    assert Image.open(io.BytesIO(made["sketch"])).size == (600, 600)
    original = Latents(large, 1024).originals({**wide, **made})
    assert original.image.size == (600, 600)
    np.testing.assert_array_equal(np.asarray(original.image), np.asarray(center_square(open_image(wide["image"]))))


def test_fingerprints_of_the_usual_sizes_do_not_change(tiny_recipe: Recipe):
    large = tiny_recipe.model_copy(update={"phases": (Phase(resolution=1024, steps=1), *tiny_recipe.phases)})
    middle = tiny_recipe.model_copy(update={"phases": (*tiny_recipe.phases, Phase(resolution=512, steps=1))})

    def identities(recipe: Recipe) -> list[Identity]:
        made = {"images": "i", "conditions": "c"}
        return [
            plan.conditions(recipe, "i"),
            plan.captions(recipe, **made),
            plan.latents(recipe, 32, **made),
            plan.evalset(recipe),
        ]

    assert all("picture_side" not in one.config for one in identities(tiny_recipe))
    assert [one.fingerprint for one in identities(middle)[:3]] == [
        one.fingerprint for one in identities(tiny_recipe)[:3]
    ]
    assert all(one.config["picture_side"] == 1024 for one in identities(large))


def test_limits_are_ordered():
    with pytest.raises(RecipeError, match=r"give \[lowest, highest\]"):
        load_recipe("demo", ["data.quality.face_area=[0.5, 0.1]"])
