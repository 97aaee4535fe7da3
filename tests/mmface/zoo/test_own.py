"""Training zoo networks on a dataset of photographs."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmface.data.portraits import draw
from mmface.datasets.dataset import Publisher
from mmface.datasets.manifest import Identity
from mmface.datasets.records import CONDITIONS, IMAGES
from mmface.errors import DatasetError, InputError
from mmface.imaging.labels import mask_to_png
from mmface.networks.components import encoder_identity, load_parser, load_vae
from mmface.networks.vae import decode
from mmface.store import Store
from mmface.store.tables import to_parquet
from mmface.zoo import train_decoder, train_parser, train_vae
from mmface.zoo.commands import train_zoo
from mmface.zoo.drawn import of_dataset


@pytest.fixture(scope="module")
def conditions(tmp_path_factory: pytest.TempPathFactory) -> str:
    store = Store(tmp_path_factory.mktemp("own"))
    portraits = [draw(seed, 160) for seed in range(6)]
    images, masks = [], []
    for number, portrait in enumerate(portraits):
        sink = io.BytesIO()
        Image.fromarray(portrait.image).save(sink, "PNG")
        row = {"id": f"{number:064x}"}
        images.append(row | {"split": "test" if number < 2 else "train", "image": sink.getvalue()})
        masks.append(row | {"mask": mask_to_png(portrait.mask)})
    made = {}
    for stage, rows, schema in (("images", images, IMAGES), ("conditions", masks, CONDITIONS)):
        publisher = Publisher(store, Identity(stage=stage, version=1, config={}, inputs=dict(made)))
        publisher.write("data/part-00000.parquet", to_parquet(rows, schema))
        made[stage] = publisher.publish({})
    return made["conditions"]


def test_a_split_of_a_dataset_is_read_as_arrays(conditions: str) -> None:
    train, test = of_dataset(conditions, "train"), of_dataset(conditions, "test")
    assert train.images.shape == (4, 128, 128, 3)
    assert test.masks.shape == (2, 128, 128)
    # A portrait drawn at 128 px is nearly the same image.
    assert np.abs(test.images[0].astype(int) - draw(0, 128).image).mean() < 12
    assert (test.masks[1] == draw(1, 128).mask).mean() > 0.95


def test_vae_and_parser_train_on_a_dataset_and_load(conditions: str, tmp_path: Path) -> None:
    data, held_out = of_dataset(conditions, "train"), of_dataset(conditions, "test")
    train_vae.train(tmp_path / "vae", steps=2, batch=2, data=data)
    train_parser.train(tmp_path / "parser", steps=2, batch=2, data=data, held_out=held_out)
    assert load_vae(str(tmp_path / "vae")).config["latent_channels"] == train_vae.CHANNELS
    assert load_parser(str(tmp_path / "parser"))[0].config.num_labels == 19


def test_a_decoder_trains_on_a_dataset_and_the_latents_stay(conditions: str, tmp_path: Path) -> None:
    train_decoder.train(tmp_path / "vae", steps=3, batch=2, data=of_dataset(conditions, "train"))
    assert encoder_identity(str(tmp_path / "vae")) == encoder_identity("zoo:vae")
    latents = torch.randn(1, train_vae.CHANNELS, 4, 4, generator=torch.Generator().manual_seed(0))
    before, after = (decode(load_vae(name), latents) for name in ("zoo:vae", str(tmp_path / "vae")))
    assert after.shape == before.shape
    assert not torch.equal(after, before)


def test_the_discriminator_sees_no_colours() -> None:
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    grey = train_decoder.luminance(pixels)
    assert train_decoder.discriminator()(grey).shape[:2] == (2, 1)
    other = pixels.clone()
    other[:, 0] += 0.114 * 0.1
    other[:, 2] -= 0.299 * 0.1  # another colour of the same luminance
    torch.testing.assert_close(train_decoder.luminance(other), grey)


def test_impossible_arguments_are_refused(conditions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMFACE_HOME", conditions.split("/datasets/")[0])
    with pytest.raises(InputError, match="--out"):
        train_zoo(["vae"], None, "conditions")
    with pytest.raises(InputError, match="clip is trained on drawn portraits"):
        train_zoo(["clip"], tmp_path, "conditions")
    with pytest.raises(DatasetError, match="no dataset 'masks'"):
        train_zoo(["vae"], tmp_path, "masks")
    with pytest.raises(DatasetError, match="not a conditions dataset"):
        train_zoo(["vae"], tmp_path, "images")
