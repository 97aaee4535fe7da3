"""Scores of samples by tiny networks: every metric of the registry, on all sides of availability."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torchvision
from PIL import Image, ImageFilter
from torchmetrics.functional.multimodal import clip_score

from mmface import plan
from mmface.config import Recipe
from mmface.config.load import load_recipe, parse_recipe
from mmface.data.conditions import FACE_LABELS, grey_png
from mmface.data.portraits import draw
from mmface.datasets.records import SCORES
from mmface.errors import InputError
from mmface.evaluate.deciding.summary import summarise
from mmface.evaluate.measuring import distances
from mmface.evaluate.measuring.judges import Judges
from mmface.evaluate.measuring.measures import extractor, measures
from mmface.evaluate.measuring.score import Score
from mmface.evaluate.scores import Scores
from mmface.imaging.labels import mask_to_png
from tests import tiny

SIDE = tiny.SIDE
Row = dict[str, Any]


def png(pixels: np.ndarray) -> bytes:
    sink = BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def rows(count: int, modality: str = "mask", painted: Mapping[int, np.ndarray] | None = None) -> list[Row]:
    """Drawn portraits as samples of themselves; ``painted`` gives other generated images."""
    made = []
    for i in range(count):
        portrait = draw(i, SIDE)
        made.append(
            {
                "id": f"{i}-{modality}",
                "image_id": str(i),
                "modality": modality,
                "prompt": portrait.captions[0],
                "generated": png((painted or {}).get(i, portrait.image)),
                "source": png(portrait.image),
                "mask": mask_to_png(portrait.mask),
                "sketch": grey_png(np.full((SIDE, SIDE), 255, np.uint8)),
            }
        )
    return made


def with_metrics(recipe: Recipe, **given: Any) -> Recipe:
    tree = recipe.model_dump(mode="json")
    tree["metrics"] |= given
    return parse_recipe(tree)


def table(scored: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(scored, schema=SCORES)


def metrics_of(row: Row) -> dict[str, float]:
    return dict(row["metrics"])


@pytest.fixture(scope="module")
def standard(tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A recipe that names DINOv2 and LPIPS."""
    folder = tmp_path_factory.mktemp("standard")
    torch.manual_seed(0)
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), folder / "squeezenet1_1-b8a52dc0.pth")
    return with_metrics(tiny_recipe, dino=tiny.dino(folder / "dino"), lpips=str(folder))


@pytest.fixture(scope="module")
def plain(tiny_recipe: Recipe) -> Score:
    return Score(tiny_recipe)


def test_every_available_metric_has_a_value_and_no_other(standard: Recipe) -> None:
    known = measures(standard)
    (scored,) = Score(standard)(rows(1))
    per_image = {name for name, one in known.items() if not (one.unavailable or one.features)}
    named = {"hair_colour_accuracy", "source_hair_colour_accuracy"}
    assert metrics_of(scored).keys() | named == per_image
    sets = {one.features for one in known.values() if one.features}
    assert dict(scored["features"]).keys() == dict(scored["source_features"]).keys() == sets
    assert {name for name, one in known.items() if one.unavailable} == {
        *("fid", "kid_inception", "llm_score", "memorised", "nearest_training", "source_nearest_training")
    }
    assert known["kid_dino"].extractor == known["kid_dino"].features == extractor(str(standard.metrics.dino))
    assert table([scored]).num_rows == 1


def test_the_recipe_of_the_demo_names_stand_ins_and_remedies() -> None:
    known = measures(parse_recipe({}))
    for name in ("kid_zoo-parser", "kid_zoo-clip", "cmmd_zoo-clip", "frechet", "lpips_zoo-parser"):
        assert known[name].extractor.startswith("zoo-")
        assert not known[name].unavailable
    for name, key in (("fid", "inception"), ("kid_inception", "inception"), ("kid_dino", "dino"), ("lpips", "lpips")):
        assert known[name].unavailable.startswith(f"set metrics.{key} to ")
    assert "kid_zoo-clip is measured instead" in known["fid"].unavailable
    assert not any(known[name].extractor for name in ("fid", "lpips"))


def test_names_of_distances_are_kept_for_the_networks_they_stand_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = {"components": {"clip": "openai/clip-vit-large-patch14-336@0123abc"}}
    known = measures(parse_recipe(tree))
    assert "cmmd" in known
    assert "kid_clip-vit-large-patch14-336" in known  # without the revision, so that a recipe can name it


def test_a_picture_of_itself_is_perfect_and_clip_agrees_with_torchmetrics(plain: Score, tiny_recipe: Recipe) -> None:
    given = rows(3)
    scored = [metrics_of(row) for row in plain(given)]
    for one in scored:
        assert one["miou"] == one["source_miou"]
        assert one["clip_distance"] == pytest.approx(0, abs=1e-6)
        assert one["ssim"] == pytest.approx(1)
        assert one["ms_ssim"] == pytest.approx(1)
    judges = plain.judges

    class Clip:
        """What torchmetrics asks of a CLIP: features as tensors."""

        config = judges.clip.config

        def to(self, device: Any) -> Clip:
            return self

        def get_image_features(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(judges.clip.get_image_features(pixel_values=pixels).pooler_output)

        def get_text_features(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(judges.clip.get_text_features(input_ids=tokens, attention_mask=mask).pooler_output)

    def processor(text: Any = None, images: Any = None, return_tensors: str = "pt", padding: bool = True) -> Any:
        if images is not None:
            return judges.clip_processor(images=images, return_tensors=return_tensors)
        return judges.tokenizer(text, return_tensors=return_tensors, padding="max_length", truncation=True)

    pictures = [torch.from_numpy(np.array(Image.open(BytesIO(row["generated"])))).permute(2, 0, 1) for row in given]
    reference = [
        float(clip_score(picture, row["prompt"], lambda: (Clip(), processor)))  # type: ignore[arg-type, return-value]
        for picture, row in zip(pictures, given, strict=True)
    ]
    assert [max(0.0, one["clip_score"]) for one in scored] == pytest.approx(reference, abs=1e-3)


def test_scores_do_not_depend_on_the_batch(plain: Score, tiny_recipe: Recipe) -> None:
    given = rows(3, painted={1: np.full((SIDE, SIDE, 3), 90, np.uint8)})
    together, alone = plain(given), [one for row in given for one in plain([row])]
    for left, right in zip(together, alone, strict=True):
        assert all(left[name] == right[name] for name in ("id", "hit", "given", "found", "groups"))
        assert metrics_of(left) == pytest.approx(metrics_of(right), abs=1e-5)


def test_counts_are_those_of_the_masks(plain: Score) -> None:
    (row,) = rows(1)
    (scored,) = plain([row])
    mask = draw(0, SIDE).mask
    assert scored["given"] == np.bincount(mask.flatten(), minlength=19).tolist()
    assert sum(scored["found"]) == SIDE**2
    assert metrics_of(scored)["accuracy"] == sum(scored["hit"]) / SIDE**2


def test_a_constant_picture_has_finite_scores(plain: Score) -> None:
    (scored,) = plain(rows(1, painted={0: np.full((SIDE, SIDE, 3), 128, np.uint8)}))
    assert all(np.isfinite(value) for value in metrics_of(scored).values())


@pytest.mark.parametrize(
    ("generated", "message"),
    [
        (b"no image", r"0-mask: generated: cannot be decoded .*paint it again"),
        (None, r"0-mask: generated: cannot be decoded"),
        (png(np.zeros((16, SIDE, 3), np.uint8)), r"0-mask: generated: has 32 x 16 pixels, .* 32 x 32; resize it"),
    ],
)
def test_a_picture_that_cannot_be_measured_is_refused(plain: Score, generated: Any, message: str) -> None:
    (row,) = rows(1)
    with pytest.raises(InputError, match=message):
        plain([{**row, "generated": generated}])


def test_copies_of_training_photographs_count_as_memorised(tiny_recipe: Recipe) -> None:
    """Two of four samples are training photographs; the held-out photographs are others."""
    photographs = [draw(100 + i, SIDE).image for i in range(4)]
    features = Judges(tiny_recipe).features([Image.fromarray(one) for one in photographs])
    blocks = [next(iter(features.values())).numpy()]
    score = Score(tiny_recipe, trained=lambda: iter(blocks))
    scored = score(rows(4, painted={0: photographs[2], 3: photographs[1]}))
    found = Scores(table(scored), measures(tiny_recipe, trained=True), SIDE, "any")
    ids, values = found.values("mask/memorised")
    assert (ids, values.tolist()) == (["0", "1", "2", "3"], [1, 0, 0, 1])
    assert metrics_of(scored[0])["nearest_training"] == pytest.approx(0, abs=1e-6)
    assert metrics_of(scored[1])["nearest_training"] == metrics_of(scored[1])["source_nearest_training"]


def test_sets_are_compared_by_their_features(plain: Score, tiny_recipe: Recipe) -> None:
    scored = plain(rows(6, painted={i: 255 - draw(i, SIDE).image for i in range(6)}))
    found = Scores(table(scored), measures(tiny_recipe), SIDE, "any")
    figures = {figure.name: figure for figure in summarise(found)}
    for name, distance in (("kid_clip", distances.kid), ("cmmd_clip", distances.cmmd)):
        _, drawn, real = found.features("mask", found.measures[name].features)
        assert figures[f"mask/{name}"].value == distance(drawn, real)
        assert distance(drawn, real) > distance(real, real)
    assert any(name.startswith("mask/frechet_clip-") for name in figures)
    assert figures["mask/fid"].unavailable.startswith("set metrics.inception to ")


def test_smeared_faces_are_farther_from_photographs_in_the_features_of_the_parser() -> None:
    judges = Judges(parse_recipe({}))
    portraits = [draw(seed, 128) for seed in range(9_500_000, 9_500_128)]
    images = [Image.fromarray(one.image) for one in portraits]
    smeared = []
    for image, portrait in zip(images, portraits, strict=True):
        face = Image.fromarray(np.isin(portrait.mask, FACE_LABELS))
        smeared.append(Image.composite(image.filter(ImageFilter.GaussianBlur(2)), image, face))

    def kid(one: list[Image.Image], other: list[Image.Image]) -> float:
        return distances.kid(*(judges.look(some).features[judges.parser_key].numpy() for some in (one, other)))

    same, worse = kid(images[:64], images[64:]), kid(smeared[:64], images[64:])
    assert worse > 0.0015
    assert abs(same) < 0.5 * worse


def test_a_parser_that_only_judges_is_named_and_checked(tiny_recipe: Recipe) -> None:
    tree = tiny_recipe.model_dump(mode="json")
    tree["evaluate"]["parser"] = "zoo:parser"
    judged = parse_recipe(tree)
    known = measures(judged)
    assert known["miou"].extractor.startswith("zoo-parser-")
    assert "lpips_zoo-parser" in known
    tree["evaluate"]["parser"] = "zoo:clip"
    with pytest.raises(InputError, match=r"evaluate.parser: cannot use 'zoo:clip' as parser: it is 'clip'"):
        Judges(parse_recipe(tree))


def test_scores_are_named_by_every_network_that_measures() -> None:
    """Also the models of the LLM score, and what they are asked with, where there are both."""

    def name(*settings: str) -> str:
        return plan.scores(load_recipe("demo", list(settings)), "datasets/samples/a", "datasets/evalset/b").fingerprint

    models = ("components.captioner=a/b", "components.rewriter=c/d")
    names = [
        name(),
        name("evaluate.parser=faces/parser"),
        *(name(f"metrics.{key}=faces/{key}") for key in ("inception", "dino", "lpips")),
        name(*models),
        name(*models, "captioning.retries=1"),
    ]
    assert len(set(names)) == len(names)
    assert name("components.captioner=a/b") == name("captioning.retries=1") == names[0]
    assert name("metrics.min_frechet_n=7") == names[0]  # decides what is shown, not what is measured
