"""Stored text reproduces the output of the encoder bit for bit, in fewer bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmface.config import Recipe, TextPadding
from mmface.data.text import Text
from mmface.datasets.dataset import Dataset, Publisher, open_dataset
from mmface.datasets.manifest import Identity
from mmface.datasets.records import TEXT
from mmface.networks.components import load_text_encoder
from mmface.networks.text_encoder import encode_text
from mmface.store import Store
from mmface.store.tables import to_parquet
from mmface.train.rows.mapped import Rows
from mmface.train.rows.texts import load_texts

CAPTIONS = {
    "c": ["red hair", "a hat", "red hair"],
    "a": ["a face with red hair and green eyes", "", "no hat"],
    "b": ["a hat", "a hat", "a hat"],
}
ROWS = [{"id": key, "captions": captions} for key, captions in CAPTIONS.items()]


def stage_of(recipe: Recipe, padding: TextPadding) -> Text:
    data = recipe.data.model_copy(update={"text_padding": padding, "captions_per_image": 3})
    return Text(recipe.model_copy(update={"data": data}))


def publish(stage: Text, folder: Path, rows: list[dict]) -> Dataset:
    publisher = Publisher(Store(folder), Identity(stage="text", version=1, config={}))
    publisher.write("data/part-00000.parquet", to_parquet(stage(rows).rows, TEXT))
    stage.write_empty(publisher.store)
    return open_dataset(publisher.publish({}, extra={"text_shape": [3, *stage.empty.sequence.shape[1:]]}))


@pytest.mark.parametrize("padding", ["exact", "masked"])
def test_stored_text_is_read_back_bit_for_bit(tiny_recipe: Recipe, tmp_path: Path, padding: TextPadding):
    stage = stage_of(tiny_recipe, padding)
    texts = load_texts(publish(stage, tmp_path, ROWS), Rows(["b", "a", "c"]))
    tokenizer, encoder = load_text_encoder(tiny_recipe.components.text_encoder)
    for row, key in enumerate("abc"):
        for caption, text in enumerate(CAPTIONS[key]):
            different = list(dict.fromkeys(CAPTIONS[key]))
            sequence, pooled, mask = encode_text(tokenizer, encoder, different, padding)
            read = texts.read(row, caption)
            place = different.index(text)
            whole = sequence[place] if mask is None else sequence[place, mask[place]]
            assert read[0].tobytes() == whole.numpy().tobytes()
            assert read[1].tobytes() == pooled[place].numpy().tobytes()
    sequence, pooled, mask = encode_text(tokenizer, encoder, [""], padding)
    assert texts.masked == (mask is not None)
    assert np.array_equal(texts.empty_sequence, sequence[0] if mask is None else sequence[0, mask[0]])
    assert np.array_equal(texts.empty_pooled, pooled[0])


def test_padding_that_can_be_restored_is_not_stored(tiny_recipe: Recipe):
    exact, masked = (stage_of(tiny_recipe, padding)(ROWS).rows for padding in ("exact", "masked"))
    # One token per letter, plus start and end: "red hair" has 9 tokens, "a hat" 6; 16 is the maximum.
    assert [row["lengths"] for row in masked] == [[9, 6], [16, 2, 7], [6]]
    assert [row["places"] for row in masked] == [[0, 1, 0], [0, 1, 2], [0, 0, 0]]
    assert [len(row["sequence"]) for row in masked] == [4 * 16 * sum(row["lengths"]) for row in masked]
    # With causal attention, padding tokens depend on the caption: only those of the empty one equal the empty prompt's.
    assert [row["lengths"] for row in exact] == [[16, 16], [16, 0, 16], [16]]


@pytest.mark.parametrize("padding", ["exact", "masked"])
def test_stored_text_does_not_depend_on_the_other_rows(tiny_recipe: Recipe, padding: TextPadding):
    stage = stage_of(tiny_recipe, padding)
    together = stage(ROWS).rows
    assert [one for row in ROWS for one in stage([row]).rows] == together
    assert stage(ROWS[::-1]).rows == together[::-1]
