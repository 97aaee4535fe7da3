"""Components are found in all supported places, and a wrong one is refused in one line that names the recipe key."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import SegformerImageProcessor

from mmface.config import Components
from mmface.errors import InputError
from mmface.estimate.shapes import component_config
from mmface.networks.components import (
    component_identity,
    load_captioner,
    load_clip,
    load_parser,
    load_rewriter,
    load_sketcher,
    load_text_encoder,
    load_vae,
)
from mmface.networks.places import ZOO, Place, text_places
from mmface.networks.text_encoder import encode_text
from tests import talkers, tiny

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every component in a subfolder, and a pipeline with a text encoder in ``sd``."""
    root = tmp_path_factory.mktemp("parts")
    tiny.components(root)
    tiny.text_encoder().save_pretrained(root / "sd" / "text_encoder")
    tiny.tokenizer(root / "sd" / "tokenizer")
    talkers.internvl(root / "captioner", {})
    talkers.qwen3(root / "rewriter", {})
    return root


@pytest.fixture
def copied(parts: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copies a component, so that a test can damage it."""
    return lambda name: Path(shutil.copytree(parts / name, tmp_path / name))


def edit(file: str, **values: Any) -> Change:
    """Sets entries of a JSON file."""

    def change(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def remove(*files: str) -> Change:
    return lambda folder: [(folder / file).unlink() for file in files]


def drop_a_weight(file: str, name: str) -> Change:
    def change(folder: Path) -> None:
        state = load_file(folder / file)
        del state[name]
        save_file(state, folder / file, metadata={"format": "pt"})

    return change


def refusal(load: Callable[[str], Any], name: str | Path, field: str) -> str:
    with pytest.raises(InputError) as caught:
        load(str(name))
    assert caught.value.field == f"components.{field}"
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500
    return caught.value.message


@pytest.mark.parametrize("place", ["sd", "sd/text_encoder"])
def test_the_tokenizer_of_a_pipeline_is_found(parts: Path, place: str) -> None:
    tokenizer, encoder = load_text_encoder(str(parts / place))
    assert (len(tokenizer), tokenizer.model_max_length) == (54, tiny.TOKENS)
    pooled = encode_text(tokenizer, encoder, ["a hat", "red hair"]).pooled
    assert not torch.equal(pooled[0], pooled[1])
    named = Components(text_encoder=str(parts / place))
    assert component_config(named, "text_encoder")["hidden_size"] == tiny.TEXT_WIDTH


def test_the_identity_of_a_text_encoder_holds_its_tokenizer(copied: Callable[[str], Path]) -> None:
    folder = copied("sd")
    before = [component_identity(str(place)) for place in (folder, folder / "text_encoder")]
    assert before[0].removeprefix("sd:") == before[1].removeprefix("text_encoder:")
    (folder / "unet").mkdir()
    (folder / "unet" / "config.json").write_text("{}")
    assert component_identity(str(folder)) == before[0], "files that are not read do not change the identity"
    edit("tokenizer/tokenizer_config.json", model_max_length=8)(folder)
    assert component_identity(str(folder)) != before[0]
    assert component_identity(str(folder / "text_encoder")) != before[1]


def test_the_tokenizer_of_a_repository_is_found(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the hub's cache, as downloading leaves it."""
    repository = tmp_path / "models--owner--sd"
    shutil.copytree(parts / "sd", repository / "snapshots" / "1f")
    shutil.copytree(parts / "clip", repository / "snapshots" / "1f" / "deep" / "text_encoder")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("1f")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("owner/sd", "owner/sd/text_encoder", "owner/sd/deep/text_encoder", "owner/sd@main"):
        tokenizer, _ = load_text_encoder(name)
        assert tokenizer.model_max_length == tiny.TOKENS, name
    place = Place("owner/sd", {"subfolder": "text_encoder", "revision": "main"})
    assert text_places(place)[1] == Place("owner/sd", {"subfolder": "tokenizer", "revision": "main"})
    shutil.rmtree(repository / "snapshots" / "1f" / "tokenizer")
    assert "its tokenizer is missing" in refusal(load_text_encoder, "owner/sd/text_encoder", "text_encoder")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("tokenizer/tokenizer.json"), r"its tokenizer is missing (tokenizer.json or vocab.json and merges.txt)"),
        (remove("tokenizer/tokenizer_config.json"), "model_max_length is 1e+30, the text encoder has 16 positions"),
        (edit("tokenizer/tokenizer_config.json", model_max_length=17), "is 17, the text encoder has 16 positions"),
        (edit("text_encoder/config.json", bos_token_id=0, eos_token_id=2), ""),
        (
            edit("text_encoder/config.json", eos_token_id=49407),
            "ends prompts with token 53, the text encoder expects",
        ),
        (edit("text_encoder/config.json", bos_token_id=1), "begins prompts with token 52, the text encoder expects 1"),
        (edit("text_encoder/config.json", vocab_size=53), "weights do not match its config: 1 are mismatched"),
        (edit("text_encoder/config.json", num_hidden_layers=4), "weights do not match its config: 16 are missing"),
    ],
)
def test_a_tokenizer_that_does_not_match_the_encoder_is_refused(
    copied: Callable[[str], Path], change: Change, message: str
) -> None:
    folder = copied("sd")
    change(folder)
    if message:
        assert message in refusal(load_text_encoder, folder / "text_encoder", "text_encoder")
    else:
        load_text_encoder(str(folder / "text_encoder"))


def test_a_tokenizer_with_another_vocabulary_is_refused(copied: Callable[[str], Path]) -> None:
    folder = copied("sd")
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(ZOO / "clip", folder / "tokenizer")
    edit("tokenizer/tokenizer_config.json", model_max_length=16)(folder)
    message = refusal(load_text_encoder, folder, "text_encoder")
    assert "has token ids up to 797, the text encoder a vocabulary of 54" in message


@pytest.mark.parametrize(
    ("load", "name", "field", "message"),
    [
        (load_vae, "parser", "vae", "its config.json names no type of model"),
        (load_vae, "sd", "vae", "in a whole pipeline: its folder vae"),
        (load_vae, "sketcher", "vae", "it is 'U2Net'"),
        (load_text_encoder, "parser", "text_encoder", "it is 'segformer'"),
        (load_clip, "sd/text_encoder", "clip", "it is 'clip_text_model'"),
        (load_parser, "vae", "parser", "it is 'AutoencoderKL'"),
        (load_parser, "clip", "parser", "it is 'clip'"),
        (load_sketcher, "vae", "sketcher", "it is 'AutoencoderKL'"),
        (load_captioner, "rewriter", "captioner", "it is 'qwen3'"),
        (load_rewriter, "captioner", "rewriter", "it is 'internvl'"),
        (load_rewriter, "no", "rewriter", "no folder"),
    ],
)
def test_a_model_of_another_class_is_refused(parts: Path, load: Any, name: str, field: str, message: str) -> None:
    assert message in refusal(load, parts / name, field)


@pytest.mark.parametrize(
    ("load", "name", "change", "message"),
    [
        (
            load_vae,
            "vae",
            drop_a_weight("diffusion_pytorch_model.safetensors", "decoder.conv_in.bias"),
            "1 are missing",
        ),
        (load_vae, "vae", edit("config.json", latent_channels=8), "are mismatched"),
        (load_vae, "vae", remove("diffusion_pytorch_model.safetensors"), "Error no file named"),
        (load_clip, "clip", remove("preprocessor_config.json"), "Can't load image processor"),
        (load_clip, "clip", remove("tokenizer.json"), "its tokenizer is missing"),
        (load_parser, "parser", remove("preprocessor_config.json"), "Can't load image processor"),
        (load_parser, "parser", lambda folder: (folder / "model.safetensors").write_bytes(b"{"), "header"),
        (load_parser, "parser", lambda folder: (folder / "config.json").write_text("{"), "not a valid JSON file"),
        (load_captioner, "captioner", remove("processor_config.json"), "Can't load"),
        (load_captioner, "captioner", remove("tokenizer_config.json"), "has no attribute"),
        (load_captioner, "captioner", remove("tokenizer.json"), "its tokenizer is missing"),
        (load_rewriter, "rewriter", remove("tokenizer.json"), "its tokenizer is missing"),
        (load_rewriter, "rewriter", remove("chat_template.jinja"), "it has no chat template"),
    ],
)
def test_a_component_with_a_missing_or_damaged_file_is_refused(
    copied: Any, load: Any, name: str, change: Change, message: str
) -> None:
    folder = copied(name)
    change(folder)
    assert message in refusal(load, folder, name)


@pytest.mark.parametrize(
    ("labels", "message"),
    [(7, "it has 7 labels"), (["road", *map(str, range(1, 19))], "its label 0 is 'road', not 'background'")],
)
def test_a_parser_with_other_labels_is_refused(tmp_path: Path, labels: Any, message: str) -> None:
    config = tiny.parser().config
    config.id2label = {i: f"LABEL_{i}" for i in range(labels)} if isinstance(labels, int) else dict(enumerate(labels))
    type(tiny.parser())(config).save_pretrained(tmp_path)
    SegformerImageProcessor().save_pretrained(tmp_path)
    assert message in refusal(load_parser, tmp_path, "parser")
