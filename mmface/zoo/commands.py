"""The commands ``mmface zoo train`` and ``mmface zoo measure``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from mmface.datasets.inventory import find, scan
from mmface.errors import InputError
from mmface.networks.places import BASE, NAMES, PREFIX, resolve
from mmface.store import home
from mmface.zoo import measure, train_base, train_clip, train_decoder, train_parser, train_sketch, train_vae
from mmface.zoo.drawn import of_dataset

DECODER = "decoder"  # of the VAE
OWN = ("vae", "parser", DECODER)
# In this order: the decoder needs the other networks.
_TRAINERS: dict[str, Callable[[Path], None]] = {
    "vae": train_vae.train,
    "clip": train_clip.train,
    "parser": train_parser.train,
    "sketch": train_sketch.train,
    DECODER: lambda vae: train_decoder.train(vae, vae=_present(vae)),
    BASE: train_base.train,
}


def train_zoo(only: Sequence[str] | None = None, out: Path | None = None, dataset: str | None = None) -> None:
    """Trains zoo networks and writes their weights into the package, or into folders below ``out``.

    ``decoder`` trains the decoder of the VAE in the same place, or that of ``zoo:vae`` if there is none.

    Args:
        only: names of the networks; by default all but the base, which takes hours, or VAE, its decoder and the parser
            with ``dataset``.
        dataset: a ``conditions`` dataset; the networks are trained on its photographs instead of drawn portraits.

    Raises:
        InputError: ``dataset`` without ``out``, or with a network that cannot be trained on a dataset.
        DatasetError: no such dataset.
        ServiceError: a package of photographs could not be downloaded.
    """
    if dataset is not None:
        _train_own(only or OWN, out, dataset)
        return
    for name in [one for one in _TRAINERS if one in (only or (*NAMES, DECODER))]:
        folder = "vae" if name == DECODER else name
        _TRAINERS[name](out / folder if out else Path(resolve(PREFIX + folder)))


def _train_own(only: Sequence[str], out: Path | None, dataset: str) -> None:
    if out is None:
        raise InputError(
            "name a folder for the weights; training on a dataset does not replace those of the package", field="--out"
        )
    foreign = [name for name in only if name not in OWN]
    if foreign:
        message = f"{foreign[0]} is trained on drawn portraits only; with --dataset name {' or '.join(OWN)}"
        raise InputError(message, field="--only")
    place = home()
    uri = place.child(find(scan(place), dataset).key).uri
    data, held_out = of_dataset(uri, "train"), of_dataset(uri, "test")
    if "vae" in only:
        train_vae.train(out / "vae", data=data)
    if "parser" in only:
        train_parser.train(out / "parser", data=data, held_out=held_out)
    if DECODER in only:
        train_decoder.train(out / "vae", vae=_present(out / "vae"), data=data)


def _present(folder: Path) -> str:
    return str(folder) if folder.is_dir() else f"{PREFIX}vae"


def measure_zoo(photos: Path | None = None, sheet: Path | None = None, n: int = 256) -> str:
    """Measures the zoo and returns all figures as a markdown table.

    Raises:
        InputError: ``photos`` holds no image.
    """
    torch.manual_seed(0)
    return measure.as_table(measure.measure(n, photos, sheet))
