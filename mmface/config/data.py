"""Where photographs come from, how they are prepared, and which frozen networks do it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mmface.config.prompts import PROMPTS
from mmface.config.section import Fraction, Limits, PositiveFloat, PositiveInt, Section

TextPadding = Literal["exact", "masked"]  # see mmface.networks.text_encoder
Layout = Literal["folder", "ffhq", "celebamask-hq", "parquet", "authors"]
RowStage = Annotated[str, Field(pattern=r"^(images|conditions|captions|text|latents-\d+)$")]

OWN_SIDECARS: dict[Layout, tuple[str, ...]] = {
    "folder": (),
    "ffhq": (),
    "celebamask-hq": ("masks",),
    "parquet": ("masks", "captions"),
    "authors": ("masks", "captions"),
}


class Portraits(Section):
    """The drawn collection that stands in when ``sources`` is empty."""

    n: PositiveInt = 400
    size: Annotated[int, Field(ge=32, le=1024)] = 128


class Collection(Section):
    """One collection of photographs: where it is, what it is called, and under which licence it may be used.

    ``images`` is a folder or ``s3://`` prefix; linked folders are followed. ``masks`` (a folder), ``captions`` (a
    ``.jsonl`` file, or a folder with one ``.txt`` or ``.caption`` a picture) and ``split`` (a folder with
    ``train.txt``, ``val.txt``, ``test.txt``) are optional; a layout that brings its own refuses them. Lists and
    captions are text in UTF-8, or UTF-16 with a byte order mark. Names are compared as composed Unicode (NFC), with
    ``\\`` as ``/``, without ``./``, and with suffixes in any case. See :mod:`mmface.data.sources` and
    ``data.min_matched``.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    licence: Annotated[str, Field(min_length=1)] = "not stated"
    layout: Layout = "folder"
    images: Annotated[str, Field(min_length=1)]
    masks: str | None = None
    captions: str | None = None
    split: str | None = None

    @model_validator(mode="after")
    def _brings_its_own(self) -> Collection:
        for name in OWN_SIDECARS[self.layout]:
            if getattr(self, name) is not None:
                raise ValueError(f"layout {self.layout} brings its own {name}; leave {name} out")
        return self


class Quality(Section):
    """Usual figures of a picture, as shares; a row outside of one is flagged as an outlier and kept."""

    face_area: Limits = (0.05, 0.8)
    label_coverage: Limits = (0.25, 1.0)
    edge_density: Limits = (0.001, 0.4)


class Data(Section):
    """Preparation: what is kept, what is set aside, how rows are grouped."""

    min_size: PositiveInt = 64
    max_megapixels: PositiveFloat = 40.0
    near_duplicate_bits: Annotated[int, Field(ge=0, le=16)] = 0
    min_face_area: Fraction = 0.0  # share of the centre square that the mask calls face
    holdout: Fraction = 0.15
    max_quarantined: Fraction = 0.01
    # Least share of a collection's pictures that must have an entry in each sidecar that is given; lower it where masks
    # or captions are meant for some pictures alone. Lists of a larger collection and lists of the held-out pictures
    # alone are sound: of lists, and of CelebAMask-HQ's parts, the share of entries that have a picture will do as well.
    min_matched: Fraction = 0.9
    shard_rows: PositiveInt = 64
    workers: PositiveInt = 2
    captions_per_image: Annotated[int, Field(ge=1, le=20)] = 10
    parse_flip: bool = False
    quality: Quality = Quality()
    mask_resize: Literal["nearest", "lanczos"] = "nearest"
    # Latents of each photograph: as it is, then cropped and half of them mirrored, drawings alike.
    views: Annotated[int, Field(ge=1, le=64)] = 1
    text_padding: TextPadding = "exact"
    # Further attempts at rows that were set aside; mmface quarantine replay counts them.
    replay: dict[RowStage, PositiveInt] = Field(default={})


class Components(Section):
    """Frozen networks by hub id, local folder or ``zoo:<name>`` (§7).

    A hub id is ``owner/name[/folder][@revision]``; without a revision a run pins it to its present commit.
    """

    vae: str = "zoo:vae"
    text_encoder: str = "zoo:clip"
    clip: str = "zoo:clip"
    parser: str = "zoo:parser"
    sketcher: str = "zoo:sketch"
    captioner: str = "facts"
    rewriter: str | None = None

    @model_validator(mode="after")
    def _rewriter(self) -> Components:
        if self.rewriter is not None and self.captioner == "facts":
            raise ValueError("rewriter has nothing to rewrite: measured facts agree; set captioner to a model")
        return self


class Captioning(Section):
    """How a captioning model is asked and what its answers must be (paper §3.1). Measured facts ask nothing."""

    prompts: Annotated[tuple[Annotated[str, Field(pattern=r"\S")], ...], Field(min_length=1)] = PROMPTS
    max_new_tokens: PositiveInt = 128
    min_words: PositiveInt = 4
    retries: Annotated[int, Field(ge=0, le=5)] = 2
    batch_size: PositiveInt = 8
    engine: Literal["transformers", "vllm"] = "transformers"
