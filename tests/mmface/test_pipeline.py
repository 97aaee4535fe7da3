"""MMFacePipeline with tiny random networks of every class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPTokenizer

from mmface.errors import InputError, RecipeError
from mmface.imaging.labels import PALETTE
from mmface.pipeline import MMFacePipeline
from mmface.sampling import make_scheduler
from tests import tiny

STEPS = 3
PROMPTS = ["red hair", "a hat", "blond"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizer")


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> MMFacePipeline:
    return tiny.pipeline(folder)


def masks(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 19, (40, 40), dtype=np.uint8)) for _ in range(count)]


def paint(pipeline: MMFacePipeline, **given: Any) -> Any:
    defaults = {"prompt": "red hair", "condition": masks(1)[0], "seeds": 7, "num_inference_steps": STEPS}
    return pipeline(**{**defaults, **given})


def latents(pipeline: MMFacePipeline, **given: Any) -> torch.Tensor:
    return paint(pipeline, output_type="latent", **given).images


def public(config: Any) -> dict[str, Any]:
    return {name: value for name, value in config.items() if not name.startswith("_")}


@pytest.mark.parametrize("vae", tiny.VAES)
@pytest.mark.parametrize(("objective", "sampler"), [("flow", "euler"), ("flow", "unipc"), ("ddpm", "dpmpp")])
def test_saving_and_loading_is_bit_exact(folder, tmp_path, vae, objective, sampler) -> None:
    first = tiny.pipeline(folder, vae, objective, sampler)
    first.save_pretrained(tmp_path)
    second = MMFacePipeline.from_pretrained(tmp_path)
    assert not list(tmp_path.rglob("*.bin"))
    assert second.config["sample_size"] == 32
    assert type(second.scheduler) is type(first.scheduler)
    assert public(second.scheduler.config) == public(first.scheduler.config)
    assert torch.equal(paint(second, output_type="pt").images, paint(first, output_type="pt").images)


@pytest.mark.parametrize("modality", ["mask", "sketch"])
def test_image_of_a_batch_equals_the_single_call(pipeline, modality) -> None:
    given = masks(3)
    batch = latents(pipeline, prompt=PROMPTS, condition=given, seeds=[5, 2**63 - 1, 0], modality=modality)
    for i, seed in enumerate([5, 2**63 - 1, 0]):
        single = latents(pipeline, prompt=PROMPTS[i], condition=given[i], seeds=seed, modality=modality)
        torch.testing.assert_close(batch[i : i + 1], single, rtol=1e-5, atol=1e-5)


def test_a_single_value_applies_to_all_images(pipeline) -> None:
    spread = latents(pipeline, seeds=[1, 2, 3])
    spelled = latents(pipeline, prompt=["red hair"] * 3, condition=masks(1) * 3, modality=["mask"] * 3, seeds=1)
    torch.testing.assert_close(spread, spelled, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(spread[0], spread[1])
    mixed = latents(pipeline, modality=["mask", "sketch"], seeds=1)
    torch.testing.assert_close(mixed[1:], latents(pipeline, modality="sketch", seeds=2), rtol=1e-5, atol=1e-5)


def test_prompts_are_encoded_as_in_training(pipeline, folder, tmp_path) -> None:
    masked = tiny.pipeline(folder, text_padding="masked")
    masked.save_pretrained(tmp_path)
    again = MMFacePipeline.from_pretrained(tmp_path)
    assert torch.equal(latents(again), latents(masked))
    assert not torch.equal(latents(masked), latents(pipeline))


def test_every_argument_has_an_effect(pipeline) -> None:
    plain = latents(pipeline)
    for change in (
        {"prompt": "a hat"},
        {"condition": masks(2)[1]},
        {"condition": None},
        {"modality": "sketch"},
        {"negative_prompt": "a hat"},
        {"guidance_scale": 1.0},
        {"drawing_guidance_scale": 2.0},
        {"guidance_start": 0.5},
        {"guidance_end": 0.5},
        {"seeds": 8},
        {"num_inference_steps": 4},
    ):
        assert not torch.allclose(latents(pipeline, **change), plain, atol=1e-4), change
    # Without guidance the negative prompt has no effect.
    unguided = latents(pipeline, guidance_scale=1.0)
    assert torch.equal(latents(pipeline, guidance_start=0.5, guidance_end=0.5), unguided)
    # Without a drawing there is nothing to guide towards.
    undrawn = latents(pipeline, condition=None)
    assert torch.equal(latents(pipeline, condition=None, drawing_guidance_scale=3.0), undrawn)
    assert torch.equal(latents(pipeline, guidance_scale=1.0, negative_prompt="a hat"), unguided)


def test_index_and_colour_masks_give_the_same_image(pipeline) -> None:
    labels = np.asarray(masks(1)[0])
    coloured = Image.fromarray(PALETTE[labels])
    assert torch.equal(latents(pipeline, condition=coloured), latents(pipeline))


def test_outputs_and_sizes(pipeline) -> None:
    output = paint(pipeline, seeds=[1, 2], height=16, width=48)
    assert [image.size for image in output.images] == [(48, 16)] * 2
    assert output.seeds == [1, 2]
    pixels, seeds = paint(pipeline, seeds=1, output_type="pt", return_dict=False)
    assert pixels.shape == (1, 3, 32, 32)
    assert pixels.abs().max() <= 1
    assert seeds == [1]
    drawing = torch.zeros(2, 3, 16, 24)
    assert latents(pipeline, condition=drawing, seeds=[1, 2]).shape == (2, 4, 4, 6)


def test_random_seeds_are_returned(pipeline) -> None:
    output = paint(pipeline, seeds=None, output_type="latent")
    assert torch.equal(latents(pipeline, seeds=output.seeds), output.images)
    assert paint(pipeline, seeds=None, output_type="latent").seeds != output.seeds


def test_a_cancelled_call_does_not_affect_the_next(pipeline) -> None:
    class Cancelled(Exception):
        pass

    def cancel(i: int, n: int, latents: torch.Tensor) -> None:
        assert n == STEPS
        if i == 2:
            raise Cancelled

    before = latents(pipeline)
    with pytest.raises(Cancelled):
        paint(pipeline, on_step=cancel)
    assert torch.equal(latents(pipeline), before)


def test_set_sampler_keeps_the_objective(folder) -> None:
    pipeline = tiny.pipeline(folder, objective="ddpm", sampler="dpmpp")
    pipeline.set_sampler("heun")
    assert type(pipeline.scheduler) is type(make_scheduler("ddpm", "heun"))
    assert latents(pipeline).isfinite().all()
    with pytest.raises(RecipeError):
        pipeline.set_sampler("plms")


def test_bfloat16(folder) -> None:
    exact = latents(tiny.pipeline(folder))
    half = latents(tiny.pipeline(folder).to(dtype=torch.bfloat16))
    assert half.dtype == torch.float32
    assert (half - exact).norm() < 0.1 * exact.norm()


BAD = [
    ({"prompt": []}, "prompt"),
    ({"prompt": 3}, "prompt"),
    ({"prompt": ["a", None]}, "prompt"),
    ({"prompt": "broken \ud800"}, "prompt"),
    ({"negative_prompt": 1.0}, "negative_prompt"),
    ({"seeds": -1}, "seed"),
    ({"seeds": 2**63}, "seed"),
    ({"seeds": [1.5]}, "seed"),
    ({"seeds": 2**63 - 1, "prompt": ["a", "b"]}, "seed"),
    ({"seeds": []}, "seeds"),
    ({"seeds": [1, 2], "prompt": ["a", "b", "c"]}, "seeds"),
    ({"num_inference_steps": 0}, "num_inference_steps"),
    ({"num_inference_steps": -4}, "num_inference_steps"),
    ({"num_inference_steps": 1001}, "num_inference_steps"),
    ({"guidance_scale": float("nan")}, "guidance_scale"),
    ({"guidance_scale": -1.0}, "guidance_scale"),
    ({"drawing_guidance_scale": float("inf")}, "drawing_guidance_scale"),
    ({"guidance_start": -0.1}, "guidance_start"),
    ({"guidance_end": 1.5}, "guidance_end"),
    ({"guidance_start": 0.6, "guidance_end": 0.4}, "guidance_start"),
    ({"height": 36}, "size"),
    ({"width": 0}, "size"),
    ({"modality": "edge"}, "modality"),
    ({"modality": []}, "modality"),
    ({"condition": "mask.png"}, "condition"),
    ({"condition": []}, "condition"),
    ({"condition": torch.zeros(3, 32, 32)}, "condition"),
    ({"condition": torch.zeros(1, 3, 32, 32), "height": 16}, "condition"),
    ({"condition": Image.new("RGB", (8, 8), (1, 2, 3))}, "condition"),
    ({"condition": masks(2), "prompt": ["a", "b", "c"]}, "condition"),
    ({"output_type": "np"}, "output_type"),
]


@pytest.mark.parametrize(("given", "field"), BAD, ids=[f"{field}-{i}" for i, (_, field) in enumerate(BAD)])
def test_wrong_input_raises_an_error_that_names_the_field(pipeline, given, field) -> None:
    with pytest.raises(InputError) as error:
        paint(pipeline, **given)
    assert error.value.field == field
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "field"), [({"in_channels": 10}, "components.vae"), ({"text_embed_dim": 8}, "components.text_encoder")]
)
def test_components_must_match(folder, changes, field) -> None:
    fitting = tiny.pipeline(folder).components
    with pytest.raises(RecipeError) as error:
        MMFacePipeline(**{**fitting, "transformer": tiny.transformer(**changes)})
    assert error.value.field == field


def test_an_empty_tokenizer_is_refused(folder) -> None:
    fitting = tiny.pipeline(folder).components
    with pytest.raises(RecipeError, match=r"components.text_encoder: the tokenizer's model_max_length is 1e\+30"):
        MMFacePipeline(**{**fitting, "tokenizer": CLIPTokenizer(vocab={"a": 0}, merges=[])})
