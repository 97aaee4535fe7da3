"""Recipe sections about photographs: where they come from and how they are prepared."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

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
    """Section ``portraits``: how the drawn collection is made."""

    n: PositiveInt = Field(default=400, description="Number of portraits to draw.")
    size: Annotated[int, Field(ge=32, le=1024)] = Field(
        default=128,
        description="Side of the square portraits, in pixels; use at least the resolution of the last phase.",
    )


class Collection(Section):
    """One entry of ``sources``: a collection of photographs; see :mod:`mmface.data.sources` for the layouts."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(
        description="Name of the collection, unique among `sources`. Manifests, reports and `train.balance` use it."
    )
    licence: Annotated[str, Field(min_length=1)] = Field(
        default="not stated",
        description="Licence under which the photographs may be used. It is recorded in the manifest, the lineage and "
        "the model card; nothing checks it.",
    )
    layout: Layout = Field(
        default="folder",
        description="How the files are arranged. `folder`: pictures at any depth; `ffhq`, `celebamask-hq` and "
        "`authors`: the folders of those data sets; `parquet`: Parquet files with a column `image`.",
    )
    images: Annotated[str, Field(min_length=1)] = Field(
        description="Local folder or `s3://` prefix of the photographs. Linked folders are followed."
    )
    masks: str | None = Field(
        default=None,
        description="Folder of label masks, matched to photographs by name (`ffhq`: by number). Without it the parser "
        "makes them. Layouts that contain masks (`celebamask-hq`, `parquet`, `authors`) refuse this key.",
    )
    captions: str | None = Field(
        default=None,
        description='A `.jsonl` file of `{"file", "captions"}` lines, or a folder with one `.txt` or `.caption` file '
        "for each photograph and one caption on each line; UTF-8, or UTF-16 with a byte order mark. Without it the "
        "captioner makes them. Layouts that contain captions (`parquet`, `authors`) refuse this key.",
    )
    split: str | None = Field(
        default=None,
        description="Folder with `train.txt`, `val.txt` and `test.txt`: lists of file names, each file optional. "
        "`val` is held out like `test`. Photographs in no list are assigned by their hash (see `data.holdout`).",
    )

    @model_validator(mode="after")
    def _leaves_out_what_the_layout_contains(self) -> Collection:
        for name in OWN_SIDECARS[self.layout]:
            if getattr(self, name) is not None:
                raise ValueError(f"layout {self.layout} brings its own {name}; leave {name} out")
        return self


class Quality(Section):
    """Section ``data.quality``: usual ranges of a row's figures."""

    face_area: Limits = Field(
        default=(0.05, 0.8),
        description="Lowest and highest usual share of the picture that the mask labels as face, from skin to lower "
        "lip.",
    )
    label_coverage: Limits = Field(
        default=(0.25, 1.0), description="Lowest and highest usual share of the 19 labels that occur in the mask."
    )
    edge_density: Limits = Field(
        default=(0.001, 0.4), description="Lowest and highest usual share of the sketch's pixels that are dark."
    )


class Data(Section):
    """Section ``data``: preparation of the rows."""

    min_size: PositiveInt = Field(
        default=64, description="Shortest allowed side of a photograph, in pixels; smaller photographs are quarantined."
    )
    max_megapixels: PositiveFloat = Field(
        default=40.0,
        description="Largest allowed photograph, in millions of pixels; larger ones are quarantined before they are "
        "decoded.",
    )
    near_duplicate_bits: Annotated[int, Field(ge=0, le=16)] = Field(
        default=0,
        description="Two photographs are duplicates if their 64-bit perceptual hashes differ in at most this many "
        "bits. One copy is kept; a copy of a held-out photograph is never used for training. Values above 0 make the "
        "search slower on large collections.",
    )
    min_face_area: Fraction = Field(
        default=0.0,
        description="Smallest share of the centre square that the mask labels as face. Photographs below it are "
        "filtered; they do not count as quarantined.",
    )
    holdout: Fraction = Field(
        default=0.15,
        description="Share of the photographs that is held out for evaluation, among those that no list of `split` "
        "names. The hash of the file decides, so that a growing collection never moves a photograph to the other "
        "side.",
    )
    max_quarantined: Fraction = Field(
        default=0.01,
        description="Largest share of a stage's rows that may be quarantined. Above it the stage fails and names the "
        "commonest reasons (§6).",
    )
    min_matched: Fraction = Field(
        default=0.9,
        description="Smallest share of a collection's photographs that must have an entry in each of its masks and "
        "captions; below it the run stops and names examples. For lists, and for the mask parts of CelebAMask-HQ, it "
        "is enough if this share of the entries has a photograph. Lower it if only some photographs have masks or "
        "captions.",
    )
    shard_rows: PositiveInt = Field(
        default=64,
        description="Rows in one part (file) of a dataset. A part is the unit of work and of resuming: smaller parts "
        "lose less work when a process dies and cost more files.",
    )
    workers: PositiveInt = Field(
        default=2,
        description="Workers that a stage uses at the same time, each with its own copy of the networks; with "
        "`captioning.engine: vllm` also the number of vLLM engines. It does not change the result.",
    )
    captions_per_image: Annotated[int, Field(ge=1, le=20)] = Field(
        default=10,
        description="Captions that each row gets; training draws one of them for each sample (paper: ten, §5). "
        "Supplied captions are repeated until there are enough.",
    )
    parse_flip: bool = Field(
        default=False,
        description="Run the parser on each photograph and on its mirror image and average the two: better masks in "
        "twice the time. Supplied masks are not affected.",
    )
    quality: Quality = Field(
        default=Quality(),
        description="Usual ranges of a row's figures, as shares. A row outside of one is flagged in the column "
        "`outlier` and kept.",
    )
    mask_resize: Literal["nearest", "lanczos"] = Field(
        default="nearest",
        description="How masks are scaled to the resolution of a phase. `nearest` keeps the palette's colours; "
        "`lanczos` blends them at edges, as the released models were trained with (§6).",
    )
    views: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1,
        description="Versions of each photograph whose latents are stored: the photograph itself, then random crops "
        "(at least 0.75 of its side), every second one mirrored; its drawings are cropped and mirrored alike. More "
        "views delay overfitting on small collections and cost time and storage in proportion.",
    )
    text_padding: TextPadding = Field(
        default="exact",
        description="How padding after a caption is treated. `exact`: attended to like words, which the released "
        "models need; `masked`: ignored, so that it is neither stored nor computed (§4).",
    )
    replay: dict[RowStage, PositiveInt] = Field(
        default={},
        description="Number of further attempts at the quarantined rows of a stage, such as `{captions: 1}`. `mmface "
        "quarantine replay` says which number to write; each number makes a new dataset.",
    )
