"""Batches depend on (seed, phase, step, slot) only; datasets are normalised when loaded."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save as save_safetensors

from mmface.datasets.dataset import Dataset, Publisher, open_dataset
from mmface.datasets.manifest import Identity
from mmface.datasets.records import LATENTS, TEXT
from mmface.errors import DatasetError
from mmface.model import Conditioning
from mmface.store import Store
from mmface.store.tables import to_parquet
from mmface.train.rows.batches import Batch, Draws
from mmface.train.rows.sets import TrainingSet, load_sets

DRAWS = Draws(seed=3, phase=0, batch_size=4, condition_dropout=0.05, text_dropout=0.05)


def equal(one: Batch, other: Batch) -> bool:
    tensors = [(one.latents, other.latents), (one.noise, other.noise), (one.uniform, other.uniform)]
    for field in fields(one.conditioning):
        pair = getattr(one.conditioning, field.name), getattr(other.conditioning, field.name)
        if pair != (None, None):
            tensors.append(pair)
    return one.ids == other.ids and all(torch.equal(a, b) for a, b in tensors)


def test_a_sample_does_not_depend_on_the_other_slots(data: TrainingSet):
    whole = DRAWS.batch(data, 5, range(4))
    for slot in range(4):
        alone = DRAWS.batch(data, 5, [slot])
        assert alone.ids == whole.ids[slot : slot + 1]
        assert torch.equal(alone.latents[0], whole.latents[slot])
        assert torch.equal(alone.noise[0], whole.noise[slot])
        assert torch.equal(alone.conditioning.condition[0], whole.conditioning.condition[slot])


def test_step_seed_and_phase_each_change_the_batch(data: TrainingSet):
    first = DRAWS.batch(data, 0, range(4))
    assert equal(first, DRAWS.batch(data, 0, range(4)))
    for other in (replace(DRAWS, seed=4), replace(DRAWS, phase=1)):
        assert not equal(first, other.batch(data, 0, range(4)))
    assert not torch.equal(first.noise, DRAWS.batch(data, 1, range(4)).noise)


@given(rows=st.integers(1, 23), batch_size=st.integers(1, 9), seed=st.integers(0, 2**31 - 1))
def test_every_row_occurs_once_per_epoch(rows: int, batch_size: int, seed: int):
    draws = replace(DRAWS, seed=seed, batch_size=batch_size)
    seen = [row for step in range(3 * rows) for row in draws.rows(rows, step, range(batch_size))]
    for epoch in range(len(seen) // rows):
        assert sorted(seen[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


def test_epochs_differ_in_order():
    orders = {tuple(DRAWS.rows(12, step, range(4)) for step in range(3 * i, 3 * i + 3)).__repr__() for i in range(5)}
    assert len(orders) == 5


def test_frequencies_of_modality_captions_and_dropouts(data: TrainingSet):
    draws = replace(DRAWS, condition_dropout=0.2, text_dropout=0.3)
    counts: Counter[str] = Counter()
    uniforms = []
    for step in range(500):
        batch = draws.batch(data, step, range(4))
        condition = batch.conditioning
        dropped = (condition.condition == 0).flatten(1).all(1)
        textless = (condition.pooled_projections == torch.from_numpy(data.texts.empty_pooled)).all(1)
        empty = (condition.encoder_hidden_states == torch.from_numpy(data.texts.empty_sequence)).flatten(1).all(1)
        assert torch.equal(textless, empty)
        counts["dropped"] += int(dropped.sum())
        counts["textless"] += int(textless.sum())
        counts["both"] += int((dropped & textless).sum())
        counts["sketch"] += int(condition.modality.sum())
        uniforms.append(batch.uniform)
    n, uniform = 2000, torch.cat(uniforms)
    expected = {"dropped": 0.2, "textless": 0.3, "both": 0.06, "sketch": 0.5}
    for name, share in expected.items():
        assert abs(counts[name] / n - share) < 4 * (share * (1 - share) / n) ** 0.5, name
    assert ((uniform >= 0) & (uniform < 1)).all()
    assert abs(float(uniform.mean()) - 0.5) < 0.03


def test_condition_and_caption_belong_to_the_row(data: TrainingSet):
    draws = replace(DRAWS, condition_dropout=0.0, text_dropout=0.0)
    batch = draws.batch(data, 2, range(4))
    captions = set()
    for i, row in enumerate(draws.rows(len(data), 2, range(4))):
        modality = int(batch.conditioning.modality[i])
        np.testing.assert_array_equal(batch.conditioning.condition[i], data.conditions[modality][row])
        texts = [data.texts.read(row, k) for k in range(3)]
        used = [k for k in range(3) if np.array_equal(batch.conditioning.pooled_projections[i], texts[k][1])]
        np.testing.assert_array_equal(batch.conditioning.encoder_hidden_states[i], texts[used[0]][0])
        captions.add(used[0])
        assert float((batch.latents[i] - torch.from_numpy(data.image[row])).std()) == pytest.approx(0.1, rel=0.5)
    assert len(captions) > 1


def masked(data: TrainingSet, longest: int) -> TrainingSet:
    """The data with captions of 1 to ``longest`` stored tokens and an empty prompt of two."""
    texts = data.texts
    lengths = np.arange(len(texts.pooled)) % longest + 1
    cut = replace(texts, start=np.concatenate([[0], np.cumsum(lengths)]), masked=True)
    return replace(data, texts=replace(cut, empty_sequence=texts.empty_sequence[:2]))


def test_masked_text_is_padded_to_the_longest_of_the_batch_and_no_further(data: TrainingSet):
    short = masked(data, 5)
    cut = short.texts
    batch = replace(DRAWS, text_dropout=0.5).batch(short, 0, range(8))
    sequence, mask = batch.conditioning.encoder_hidden_states, batch.conditioning.encoder_attention_mask
    assert mask is not None
    assert mask.shape == sequence.shape[:2] == (8, 8)  # a multiple of 8
    stored = {one.tobytes() for row in range(len(data)) for one in (cut.read(row, k)[0] for k in range(3))}
    for i in range(8):
        own = sequence[i, mask[i]].numpy()
        assert own.tobytes() in stored | {cut.empty_sequence.tobytes()}
        assert not sequence[i, len(own) :].any()
    assert len({int(row.sum()) for row in mask}) > 1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_micro_batches_contain_every_slot_once(data: TrainingSet, count: int):
    batch = DRAWS.batch(data, 0, range(8))
    parts = batch.split(count)
    assert [slot for part in parts for slot in part.slots.tolist()] == list(range(8))
    assert [key for part in parts for key in part.ids] == list(batch.ids)
    assert torch.equal(torch.cat([part.noise for part in parts]), batch.noise)
    assert {len(part.slots) for part in parts} <= {8 // count, 8 // count + 1}


def test_the_average_number_of_tokens_is_counted(data: TrainingSet):
    assert data.texts.tokens == len(data.texts.empty_sequence)
    short = masked(data, 7).texts
    assert short.tokens == round(np.diff(short.start).mean())


def test_micro_batches_of_masked_text_group_lengths_and_cut_padding(data: TrainingSet):
    batch = DRAWS.batch(masked(data, 7), 0, range(8))
    batch = replace(batch, conditioning=long_text(batch.conditioning))
    parts = batch.split(2)
    assert [part.conditioning.encoder_hidden_states.shape[1] for part in parts] == [8, 24]
    assert sorted(slot for part in parts for slot in part.slots.tolist()) == list(range(8))
    for part in parts:
        for i, slot in enumerate(part.slots.tolist()):
            assert part.ids[i] == batch.ids[slot]
            own, whole = part.conditioning, batch.conditioning
            assert own.encoder_attention_mask is not None
            assert whole.encoder_attention_mask is not None
            seen, of = own.encoder_attention_mask[i], whole.encoder_attention_mask[slot]
            assert torch.equal(own.encoder_hidden_states[i, seen], whole.encoder_hidden_states[slot, of])
            assert torch.equal(own.pooled_projections[i], whole.pooled_projections[slot])


def long_text(conditioning: Conditioning) -> Conditioning:
    """Replaces every second caption by one of 20 tokens; pads all to 32."""
    text, mask = conditioning.encoder_hidden_states, conditioning.encoder_attention_mask
    assert mask is not None
    wide, seen = torch.zeros(len(text), 32, text.shape[2]), torch.zeros(len(text), 32, dtype=torch.bool)
    wide[:, : text.shape[1]], seen[:, : text.shape[1]] = text, mask
    wide[::2, :20], seen[::2, :20] = torch.randn(len(wide[::2]), 20, text.shape[2]), True
    return conditioning.with_text(wide, conditioning.pooled_projections, seen)


def test_a_vae_without_posterior_adds_no_noise(data: TrainingSet):
    plain = replace(data, image_std=None)
    batch = DRAWS.batch(plain, 0, range(4))
    np.testing.assert_array_equal(batch.latents, data.image[DRAWS.rows(len(data), 0, range(4))])


def publish(home: Store, stage: str, parts: list[list[dict]], schema: object, extra: dict, **files: bytes) -> Dataset:
    publisher = Publisher(home, Identity(stage=stage, version=1, config={}))
    for number, rows in enumerate(parts):
        publisher.write(f"data/part-{number:05d}.parquet", to_parquet(rows, schema))
    for name, content in files.items():
        publisher.write(f"{name}.safetensors", content)
    return open_dataset(publisher.publish({}, extra=extra))


def datasets(folder: Path, *, logvar: bool = True, views: int = 1, **damage: object) -> tuple[Dataset, Dataset]:
    value = np.arange(2 * 2 * 2, dtype=np.float32).reshape(2, 2, 2)
    value = np.stack([value + 100 * view for view in range(views)])

    def latent(key: str, split: str, offset: float) -> dict:
        row = {"id": key, "split": split, "image_logvar": np.full_like(value, 2.0).tobytes() if logvar else None}
        row |= {f"{name}_mean": (value + offset + i).tobytes() for i, name in enumerate(("image", "mask", "sketch"))}
        return row

    parts = [
        [latent("c", "train", 3.0), latent("a", "train", 1.0)],
        [latent("b", "test", 2.0), latent("d", "train", 4.0)],
    ]
    extra = {"latent_views": views, "latent_shape": [2, 2, 2], "latent_mean": [1.0, 2.0], "latent_std": [0.5, 4.0]}
    # Both captions of "c" are the same stored caption. Two of three tokens are stored; the third is padding.
    text = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    captions = [
        {
            "id": key,
            "places": places,
            "lengths": [2] * texts,
            "sequence": (text[:texts, :2] + i).tobytes(),
            "pooled": (text[:texts, 0] + i).tobytes(),
        }
        for i, (key, places, texts) in enumerate([("a", [1, 0], 2), ("b", [0, 1], 2), ("c", [0, 0], 1)])
    ]
    captions[0] |= damage
    empty = save_safetensors({"sequence": text[0], "pooled": text[0, 0], "length": np.array([3])})
    home = Store(folder)
    return (
        publish(home, "latents-16", parts, LATENTS, extra),
        publish(home, "text", [captions], TEXT, {"text_shape": [2, 3, 4]}, empty=empty),
    )


def test_loading_joins_sorts_and_normalises_rows(tmp_path: Path):
    data = load_sets(*datasets(tmp_path), 0)[0]
    assert data.ids.tolist() == [b"a", b"c"]  # b is held out, d has no text
    value = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    mean, std = np.array([1.0, 2.0])[:, None, None], np.array([0.5, 4.0])[:, None, None]
    for row, offset in enumerate((1.0, 3.0)):
        np.testing.assert_allclose(data.image[row], (value + offset - mean) / std, rtol=1e-6)
        np.testing.assert_allclose(data.conditions[0][row], (value + offset + 1 - mean) / std, rtol=1e-6)
        np.testing.assert_allclose(data.conditions[1][row], (value + offset + 2 - mean) / std, rtol=1e-6)
    np.testing.assert_allclose(data.image_std[0], np.broadcast_to(np.e / std, (2, 2, 2)), rtol=1e-6)
    text = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    for row, caption, own in ((0, 0, text[1]), (0, 1, text[0]), (1, 0, text[0] + 2), (1, 1, text[0] + 2)):
        sequence, pooled = data.texts.read(row, caption)
        np.testing.assert_array_equal(sequence, np.concatenate([own[:2], text[0, 2:]]))
        np.testing.assert_array_equal(pooled, own[0])
    assert data.texts.pooled.shape == (3, 4)
    assert isinstance(data.texts.sequence, np.memmap)
    assert (data.latent_channels, data.text_width) == (2, 4)
    assert isinstance(data.image, np.memmap)


def test_held_out_rows_are_separate_from_training_rows(tmp_path: Path):
    latents, text = datasets(tmp_path)
    data, held_out = load_sets(latents, text, 5)
    assert held_out is not None
    assert (data.ids.tolist(), held_out.ids.tolist()) == ([b"a", b"c"], [b"b"])
    alone = load_sets(latents, text, 0)[0]
    for one, other in (
        (data.image, alone.image),
        (data.image_std, alone.image_std),
        (data.conditions, alone.conditions),
    ):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(held_out.image[0] - data.image[0], np.broadcast_to([[[2.0]], [[0.25]]], (2, 2, 2)))
    np.testing.assert_allclose(held_out.conditions[1] - held_out.conditions[0], held_out.image - data.image[:1])
    for set_ in (data, alone):
        np.testing.assert_array_equal(set_.texts.read(1, 1)[0], alone.texts.read(1, 1)[0])
    assert not np.array_equal(held_out.texts.read(0, 1)[1], data.texts.read(0, 1)[1])
    assert load_sets(latents, text, 0)[1] is None


def test_every_stored_view_is_a_training_row_and_the_first_is_held_out(tmp_path: Path):
    (plain, plain_held_out), (data, held_out) = (
        load_sets(*datasets(tmp_path / str(views), views=views), 5) for views in (1, 3)
    )
    assert data.ids.tolist() == [b"a"] * 3 + [b"c"] * 3
    assert len(data.sources) == len(data) == 6
    assert held_out is not None
    assert plain_held_out is not None
    assert held_out.ids.tolist() == [b"b"]
    np.testing.assert_array_equal(held_out.image, plain_held_out.image)
    np.testing.assert_array_equal(data.image[::3], plain.image)
    scale = np.array([0.5, 4.0], np.float32)[:, None, None]
    np.testing.assert_allclose(data.image[5] * scale, plain.image[1] * scale + 200, rtol=1e-6)
    for row in range(6):
        np.testing.assert_array_equal(data.texts.read(row, 1)[0], plain.texts.read(row // 3, 1)[0])


def test_loading_without_posterior_gives_no_deviation(tmp_path: Path):
    assert load_sets(*datasets(tmp_path, logvar=False), 0)[0].image_std is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"pooled": b"\0" * 8}, "pooled of row a is not 2 x 4 float32"),
        ({"sequence": b""}, "sequence of row a is not 4 x 4 float32"),
        ({"places": [0, 2]}, "row a does not hold 2 captions of at most 3 tokens"),
        ({"places": [0]}, "row a does not hold 2 captions"),
        ({"lengths": [2, 4]}, "row a does not hold 2 captions of at most 3 tokens"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(tmp_path: Path, damage: dict, message: str):
    with pytest.raises(DatasetError, match=message):
        load_sets(*datasets(tmp_path, **damage), 0)[0]
