"""Loads training rows and held-out rows from the datasets of latents and text into memory-mapped arrays.

Shapes: R rows, V views of each, C latent channels, H W latent size, D text width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mmface.datasets.dataset import Dataset
from mmface.errors import DatasetError
from mmface.train.rows.mapped import Floats, Rows, floats, mapped
from mmface.train.rows.texts import Texts, load_texts


@dataclass(frozen=True)
class TrainingSet:
    """Training rows or held-out rows as flat arrays, memory-mapped when loaded from datasets.

    Each stored view of a photograph is a row of its own; rows of the same id are adjacent.

    Attributes:
        ids: [R] row ids, sorted, as bytes.
        image: [R, C, H, W] normalised posterior mean of the photograph.
        image_std: [R, C, H, W] standard deviation of the posterior, normalised; None for a VAE without a posterior.
        conditions: normalised latents of mask and sketch, [R, C, H, W] each, in the order of ``MODALITIES``.
        texts: encoded captions of the rows.
        sources: [R] collection of each row; may be empty if collections are not balanced.
    """

    ids: npt.NDArray[np.bytes_]
    image: Floats
    image_std: Floats | None
    conditions: tuple[Floats, Floats]
    texts: Texts
    sources: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, rows: slice) -> TrainingSet:
        """Selects rows; the arrays are views of the same memory."""
        mask, sketch = self.conditions
        return TrainingSet(
            ids=self.ids[rows],
            image=self.image[rows],
            image_std=None if self.image_std is None else self.image_std[rows],
            conditions=(mask[rows], sketch[rows]),
            texts=replace(self.texts, place=self.texts.place[rows]),
            sources=self.sources[rows],
        )

    @property
    def latent_channels(self) -> int:
        """C, channels of the latents."""
        return int(self.image.shape[1])

    @property
    def text_width(self) -> int:
        """D, width of the encoded text."""
        return int(self.texts.pooled.shape[-1])


def load_sets(latents: Dataset, text: Dataset, held_out_rows: int) -> tuple[TrainingSet, TrainingSet | None]:
    """Reads the rows that are in both datasets, ordered by id, into memory-mapped arrays.

    Args:
        latents: a ``latents-<px>`` dataset.
        text: the ``text`` dataset.
        held_out_rows: number of rows of the split ``test`` to read, the first by id.

    Returns:
        All training rows, and the first view of the held-out rows (``None`` if there are none or ``held_out_rows`` is
        0).

    Raises:
        DatasetError: the datasets share no training row, or a row does not have the shape that the manifest names.
    """
    table = latents.table(["id", "split", "source"]).to_pydict()
    with_text = set(text.table(["id"]).column("id").to_pylist())
    common = [(key, split) for key, split in zip(table["id"], table["split"], strict=True) if key in with_text]
    train = [key for key, split in common if split == "train"]
    if not train:
        raise DatasetError(f"{latents.uri} and {text.uri} share no training row", field="inputs")
    held_out = sorted(key for key, split in common if split == "test")[:held_out_rows]
    source = dict(zip(table["id"], table["source"], strict=True))
    data = _load(latents, text, Rows(train, held_out), source)
    views = latents.manifest.extra["latent_views"]
    end = len(train) * views
    return data.part(slice(end)), data.part(slice(end, None, views)) if held_out else None


def _load(latents: Dataset, text: Dataset, rows: Rows, source: dict[str, str]) -> TrainingSet:
    views, shape = latents.manifest.extra["latent_views"], latents.manifest.extra["latent_shape"]
    mean, std = (_channels(latents.manifest.extra[name]) for name in ("latent_mean", "latent_std"))
    drawn = {name: _read(latents, name, rows, views, shape) for name in ("image_mean", "mask_mean", "sketch_mean")}
    for array in drawn.values():
        array -= mean
        array /= std
    image_std = _read(latents, "image_logvar", rows, views, shape) if _has_posterior(latents) else None
    if image_std is not None:
        np.exp(0.5 * image_std, out=image_std)
        image_std /= std

    texts = load_texts(text, rows)
    ids = [key for key in rows.ids for _ in range(views)]
    return TrainingSet(
        ids=np.array([key.encode() for key in ids]),
        image=drawn["image_mean"],
        image_std=image_std,
        conditions=(drawn["mask_mean"], drawn["sketch_mean"]),
        texts=replace(texts, place=texts.place.repeat(views, axis=0)),
        sources=tuple(source[key] for key in ids),
    )


def _read(dataset: Dataset, column: str, rows: Rows, views: int, shape: list[int]) -> Floats:
    """Reads a column of latents with all views: [R x V, C, H, W]."""
    array = mapped(len(rows) * views, *shape)
    for row, (value,) in rows.read(dataset, [column]):
        first, what = row * views, f"{column} of row {rows.ids[row]}"
        array[first : first + views] = floats(value, (views, *shape), what, dataset)
    return array


def _has_posterior(latents: Dataset) -> bool:
    column = latents.part(latents.parts()[0].path, ["image_logvar"]).column("image_logvar")
    return bool(column.null_count < len(column))


def _channels(values: list[float]) -> Floats:
    return np.asarray(values, np.float32)[:, None, None]
