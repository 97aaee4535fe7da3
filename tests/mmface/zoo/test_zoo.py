"""The zoo: names resolve, weights are small and load, and results on held-out portraits are good enough."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mmface.errors import InputError
from mmface.networks.components import load_clip, load_parser, load_sketcher, load_text_encoder
from mmface.networks.places import NAMES, resolve
from mmface.networks.text_encoder import encode_text
from mmface.zoo.drawn import HELD_OUT_SEED, TRAIN_SEED, Drawn, drawn
from mmface.zoo.measure import as_table, draw_sketches, hair_word_accuracy, load_photos, psnr
from mmface.zoo.train_clip import TOKENS, build_tokenizer, retrieval
from mmface.zoo.train_parser import disturb, per_label_iou, predict
from mmface.zoo.train_sketch import target

# The targets of mmface/zoo/README.md; for sketches, the measured correlation less a margin.
PARSER_MIOU, SKETCH_CORRELATION, CLIP_RETRIEVAL, HAIR_WORDS = 0.75, 0.70, 0.60, 0.8


@pytest.fixture(scope="module")
def held_out() -> Drawn:
    return drawn(64, HELD_OUT_SEED)


def test_zoo_names_resolve_to_folders_and_other_names_stay() -> None:
    assert Path(resolve("zoo:clip")).name == "clip"
    assert resolve("some/hub-id") == "some/hub-id"
    with pytest.raises(InputError, match="zoo:parser"):
        resolve("zoo:nothing")


def test_all_weights_are_small_safetensors() -> None:
    files = [f for name in NAMES for f in Path(resolve(f"zoo:{name}")).rglob("*") if f.is_file()]
    assert {f.suffix for f in files} <= {".safetensors", ".json", ".txt"}
    assert sum(f.stat().st_size for f in files) <= 16e6


def test_training_and_held_out_seeds_do_not_overlap() -> None:
    assert abs(TRAIN_SEED - HELD_OUT_SEED) >= 500_000


def test_the_parser_finds_the_labels(held_out: Drawn) -> None:
    model, processor = load_parser("zoo:parser")
    ious = per_label_iou(predict(model, held_out.images), held_out.masks)
    assert np.nanmean(ious) >= PARSER_MIOU
    # The shipped processor prepares images as in training.
    inputs = processor(images=list(held_out.images[:4]), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        logits = torch.nn.functional.interpolate(model(inputs).logits, size=(128, 128), mode="bilinear")
    same = logits.argmax(1).numpy() == predict(model, held_out.images[:4])
    assert same.mean() > 0.98


def test_sketches_have_dark_lines_where_their_targets_have_them(held_out: Drawn) -> None:
    sketches = draw_sketches(load_sketcher("zoo:sketch"), held_out.images[:16]) / 255
    pixels = torch.from_numpy(held_out.images[:16]).permute(0, 3, 1, 2).float() / 255
    wanted = 1 - target(pixels, torch.from_numpy(held_out.masks[:16]).long())[:, 0].numpy()
    assert np.median(sketches) > 0.85
    assert np.corrcoef(sketches.reshape(-1), wanted.reshape(-1))[0, 1] > SKETCH_CORRELATION


def test_clip_finds_captions_and_hair_colours(held_out: Drawn) -> None:
    model, tokenizer, _ = load_clip("zoo:clip")
    assert retrieval(model, tokenizer, held_out) >= CLIP_RETRIEVAL
    assert hair_word_accuracy(model, tokenizer, held_out) >= HAIR_WORDS


def test_the_text_encoder_accepts_any_text() -> None:
    tokenizer, encoder = load_text_encoder("zoo:clip")
    assert tokenizer.model_max_length == encoder.config.max_position_embeddings == TOKENS
    sequence, pooled, _ = encode_text(
        tokenizer, encoder, ["", "A man with red hair.", "日本 Zürich \x07 q", "x " * 200]
    )
    assert sequence.shape[:2] == (4, TOKENS)
    assert torch.isfinite(sequence).all()
    assert torch.isfinite(pooled).all()
    one, other = encode_text(tokenizer, encoder, ["A man with red hair.", "A man with white hair."]).pooled
    assert not torch.allclose(one, other)


def test_a_tokenizer_merges_common_words_and_keeps_bytes() -> None:
    tokenizer = build_tokenizer(["a woman with red hair"] * 50 + ["a man with a hat"] * 50, 600)
    assert tokenizer.convert_ids_to_tokens(tokenizer("woman").input_ids) == [
        "<|startoftext|>",
        "woman</w>",
        "<|endoftext|>",
    ]
    assert tokenizer.decode(tokenizer("ß q!").input_ids, skip_special_tokens=True).split() == ["ß", "q", "!"]


def test_mirroring_swaps_left_and_right() -> None:
    class Mirror:  # a random generator whose only augmentation is mirroring
        def random(self, n: int | None = None) -> np.ndarray | float:
            return 0.0 if n is None else np.ones(n)

        def normal(self, mean: float, spread: float, n: int) -> np.ndarray:
            return np.zeros(n)

        def uniform(self, low: float, high: float, shape: object) -> np.ndarray:
            return np.full(shape, 1.0 if low > 0 else 0.0)

        def choice(self, values: list[int]) -> int:
            return max(values)

    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[0, :, :2], labels[0, :, 6:] = 5, 13
    _, moved = disturb(torch.rand(1, 3, 8, 8), labels, torch.rand(1, 3, 8, 8), Mirror())  # type: ignore[arg-type]
    assert moved[0, 0].tolist() == [13, 13, 0, 0, 0, 0, 4, 4]


def test_iou_in_closed_form() -> None:
    truth, found = np.array([[0, 0, 1, 1]], np.uint8), np.array([[0, 1, 1, 1]], np.uint8)
    ious = per_label_iou(found, truth)
    assert ious[:2].tolist() == [0.5, 2 / 3]
    assert np.isnan(ious[2:]).all()


def test_psnr_in_closed_form() -> None:
    black = np.zeros((2, 4, 4, 3), np.uint8)
    assert psnr(black, black + 1) == pytest.approx(20 * np.log10(255))


def test_the_error_for_a_folder_without_photographs_names_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no jpg") as error:
        load_photos(tmp_path, 4)
    assert error.value.field == "photos"


def test_the_table_is_markdown() -> None:
    assert as_table({"a": 0.5}).splitlines()[-1] == "| a | 0.500 |"
