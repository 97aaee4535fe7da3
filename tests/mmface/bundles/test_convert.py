"""Conversion: a bundle with the reference's weights paints the reference's samples; other weights are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from flows.cli.command_line import main
from mmface.bundles.bundle import read_bundle
from mmface.bundles.conversion import convert
from mmface.bundles.weights import AUTHORS_FILE, file_hash
from mmface.config import Recipe
from mmface.config.guidance import Guidance
from mmface.config.load import parse_recipe
from mmface.errors import InputError, RecipeError
from mmface.model import Conditioning
from mmface.pipeline import MMFacePipeline
from mmface.sampling import sample
from tests import tiny

REFERENCE = Path(__file__).parents[2] / "parity"
FOLDERS = {"flow": "dit-unified-flux-vae-64-rfm", "ddpm": "dit-unified-flux-vae-64"}
SAMPLERS = {"flow": "euler", "ddpm": "dpmpp"}


@pytest.fixture(scope="module")
def numbers() -> dict[str, Tensor]:
    return load_file(REFERENCE / "small.safetensors")


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return json.loads((REFERENCE / "small.json").read_text())


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, numbers: dict[str, Tensor]) -> Path:
    """The reference's weights, in a folder of each name that the authors use."""
    root, prefix = tmp_path_factory.mktemp("released"), "weights."
    state = {key.removeprefix(prefix): numbers[key] for key in numbers if key.startswith(prefix)}
    for name in FOLDERS.values():
        (root / name / "checkpoint-9").mkdir(parents=True)
        save_file(state, root / name / "checkpoint-9" / AUTHORS_FILE)
    return root


@pytest.fixture(scope="module")
def components(tmp_path_factory: pytest.TempPathFactory, facts: dict[str, Any]) -> dict[str, str]:
    root, width = tmp_path_factory.mktemp("components"), facts["config"]["text_embed_dim"]
    tiny.kl_flux().save_pretrained(root / "vae")
    tiny.kl().save_pretrained(root / "vae-narrow")
    sizes = {"hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    CLIPTextModel(CLIPTextConfig(**sizes, **tiny.TEXT)).save_pretrained(root / "sd" / "text_encoder")
    tiny.tokenizer(root / "sd" / "tokenizer")
    return {"vae": str(root / "vae"), "text_encoder": str(root / "sd" / "text_encoder")}


def recipe(objective: str, components: dict[str, str], facts: dict[str, Any], **changes: Any) -> Recipe:
    sizes = {name: facts["config"][name] for name in ("patch_size", "hidden_size", "depth", "num_heads")}
    tree = {
        "name": "reference",
        "components": components,
        "model": {**sizes, "text_rope": "zero"},
        "data": {"mask_resize": "lanczos"},
        "objective": {"name": objective},
        "phases": [{"resolution": 64, "steps": 1}],
        "sampling": {"sampler": SAMPLERS[objective], "num_inference_steps": 2},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        tree[section] = {**tree[section], name: value} if name else value  # type: ignore[dict-item]
    return parse_recipe(tree)


@pytest.mark.parametrize("objective", FOLDERS)
def test_the_bundle_paints_what_the_reference_paints(tmp_path, released, components, numbers, facts, objective):
    source = released / FOLDERS[objective]
    out = convert(str(source), recipe(objective, components, facts), tmp_path / "bundles" / "one")
    bundle = read_bundle(out)
    conditioning = Conditioning(*(numbers[f"in.{name}"] for name in ("condition", "tokens", "pooled", "modality")))
    latents = sample(
        bundle.pipeline.transformer,
        bundle.pipeline.scheduler,
        numbers["in.noise"],
        conditioning,
        conditioning.with_text(numbers["in.uncond_tokens"], numbers["in.uncond_pooled"]),
        num_inference_steps=facts["sampling"]["steps"],
        guidance=Guidance(facts["sampling"]["guidance_scale"]),
    )
    expected = numbers[f"{objective}.sample"]
    assert (latents - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert bundle.lineage["sha256"] == file_hash(source / "checkpoint-9" / AUTHORS_FILE)
    assert bundle.lineage["file"] == f"{FOLDERS[objective]}/checkpoint-9/{AUTHORS_FILE}"
    assert (bundle.recipe.objective.name, bundle.pipeline.config["mask_resize"]) == (objective, "lanczos")
    assert [path.name for path in out.parent.iterdir()] == ["one"]  # nothing is left over


def test_the_command_writes_a_bundle_that_paints(tmp_path, released, components, facts, capsys):
    saved = tmp_path / "recipe.yaml"
    saved.write_text(recipe("flow", components, facts).to_yaml())
    out = tmp_path / "bundle"
    command = ["convert", str(released / FOLDERS["flow"]), "--recipe", str(saved), "--out", str(out)]
    assert main(command) == 0
    assert capsys.readouterr().out.strip() == str(out)
    pipeline = MMFacePipeline.from_pretrained(out)
    images = pipeline("a hat", torch.zeros(1, 3, 64, 64), num_inference_steps=2, seeds=[1]).images
    assert images[0].size == (64, 64)
    for again, field in ((command, "--out"), ([*command[:-1], f"{out}2", "--alias", "champion"], "--alias")):
        assert main(again) == 2
        assert f"mmface: error: {field}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model__text_rope": "sequential"}, "model.text_rope"),
        ({"model__depth": 3}, "model.depth"),
        ({"data__mask_resize": "nearest"}, "data.mask_resize"),
        ({"data": {"mask_resize": "lanczos", "text_padding": "trimmed"}}, "data.text_padding"),
        ({"objective__name": "ddpm"}, "objective.name"),
        ({"phases": [{"resolution": 128, "steps": 1}]}, "phases.0.resolution"),
        ({"components__vae": "narrow"}, "components.vae"),
        ({"components__text_encoder": "zoo:clip"}, "components.text_encoder"),
    ],
)
def test_a_recipe_that_does_not_fit_the_weights_is_refused_with_its_key(
    tmp_path, released, components, facts, changes, field
):
    if changes.get("components__vae") == "narrow":
        changes = {"components__vae": f"{components['vae']}-narrow"}
    with pytest.raises(RecipeError) as caught:
        convert(str(released / FOLDERS["flow"]), recipe("flow", components, facts, **changes), tmp_path / "bundle")
    assert caught.value.field == field
    assert not list(tmp_path.iterdir())


def test_a_text_encoder_without_tokenizer_is_refused(tmp_path, released, components, facts, capsys):
    shutil.copytree(components["text_encoder"], tmp_path / "text_encoder")
    saved = tmp_path / "recipe.yaml"
    saved.write_text(recipe("flow", {**components, "text_encoder": str(tmp_path / "text_encoder")}, facts).to_yaml())
    out = tmp_path / "bundle"
    assert main(["convert", str(released / FOLDERS["flow"]), "--recipe", str(saved), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "mmface: error: components.text_encoder: cannot use" in error
    assert "as text_encoder" in error
    assert not out.exists()


def test_unknown_keys_and_bundles_are_refused(tmp_path, released, components, facts):
    made = recipe("flow", components, facts)
    state = load_file(released / FOLDERS["flow"] / "checkpoint-9" / AUTHORS_FILE)
    save_file({**state, "extra": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match="has unknown keys: extra"):
        convert(str(tmp_path / "weights.safetensors"), made, tmp_path / "bundle")
    bundle = convert(str(released / FOLDERS["flow"]), made, tmp_path / "bundle")
    with pytest.raises(InputError, match="needs no conversion"):
        convert(str(bundle), made, tmp_path / "again")
