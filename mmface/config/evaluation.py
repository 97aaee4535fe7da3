"""Recipe sections about measuring: in training, in evaluation, by the gate, and what arrives afterwards."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from mmface.config.section import Fraction, PositiveFloat, PositiveInt, Section


class Evaluate(Section):
    """Section ``evaluate``: the evaluation set, and who judges its pictures."""

    set: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$")] = Field(
        default="v1",
        description="Version of the evaluation set. The rows of a version are chosen once, from the photographs held "
        "out at that time, and never change: name a new version (`v2`) to choose rows of a grown collection.",
    )
    n: PositiveInt = Field(
        default=128, description="Held-out rows painted from their masks, the first by id; fewer if fewer are held out."
    )
    n_sketch: PositiveInt = Field(
        default=64, description="Held-out rows painted from their sketches, and once more without them as the baseline."
    )
    parser: str | None = Field(
        default=None,
        description="Network that parses painted pictures for `miou` and `accuracy`, as `components.parser` is named. "
        "null: `components.parser`, which then judges by the masks that it made itself; the report says so.",
    )
    batch_size: PositiveInt = Field(
        default=16,
        description="Pictures painted at the same time, at most the 32 of a part; larger needs more memory. It does "
        "not change the pictures.",
    )
    grid: PositiveInt = Field(
        default=16, description="Pictures of each kind of drawing in the grid of the report, the first by id."
    )


class Metrics(Section):
    """Section ``metrics``: standard networks that measure pictures (§8), each by hub id or local folder.

    Without them the figures of their metrics are unavailable; named stand-ins of the zoo are measured instead.
    """

    inception: str | None = Field(
        default=None,
        description="Inception v3 with the weights of the original FID (1008 classes; not torchvision's), for `fid` "
        "and `kid_inception`: a hub id or folder with `model.safetensors` or `pt_inception-2015-12-05-6726825d.pth`, "
        "or such a file; null: unavailable.",
    )
    dino: str | None = Field(
        default=None,
        description="A Dinov2Model with its image processor, such as facebook/dinov2-base, for `kid_dino`; null: "
        "unavailable.",
    )
    lpips: str | None = Field(
        default=None,
        description="The backbone of LPIPS (arXiv 1801.03924), torchvision's AlexNet, VGG-16 or SqueezeNet 1.1, for "
        "`lpips`: a hub id or folder with `model.safetensors` or torchvision's `.pth` file, or such a file. The linear "
        "weights come with torchmetrics. null: unavailable.",
    )
    min_frechet_n: PositiveInt = Field(
        default=2048,
        description="Fewest pictures for `fid`, which is biased upwards by small numbers; with fewer it is "
        "unavailable. A stand-in `frechet_…` has its number of pictures in its name instead.",
    )


class Comparison(Section):
    """How much worse than the champion's a figure may be."""

    margin: Annotated[float, Field(ge=0)] = Field(
        description="Largest loss against the champion that still counts as equal, in units of the metric."
    )


class Gate(Section):
    """Section ``gate``: limits for becoming champion (§8).

    ``gate: open`` stands for ``gate: {open: true}``.
    """

    open: bool = Field(
        default=False,
        description="Promote every version whose evaluation set was not trained on, without any other check "
        "(`gate: open`). A gate that is not open and checks nothing promotes nothing.",
    )
    compare: dict[str, Comparison] = Field(
        default={},
        description="Metrics on which a version must not be worse than the champion by more than `margin`, such as "
        "`{mask/miou: {margin: 0.01}}`: paired over the rows of the evaluation set. A first version has no champion "
        "to be compared with.",
    )
    better: str | None = Field(
        default=None, description="A metric on which a version must be better than the champion; null: none."
    )
    level: Annotated[float, Field(gt=0.5, lt=1)] = Field(
        default=0.95, description="Confidence level of the decisions of `compare` and `better`."
    )
    power: Annotated[float, Field(gt=0.5, lt=1)] = Field(
        default=0.8,
        description="Probability with which the printed smallest detectable difference would be detected.",
    )
    max_memorised: Fraction | None = Field(
        default=None,
        description="Largest share of pictures that lie nearer to a training photograph than the 1st percentile of "
        "held-out photographs does (`mask/memorised`).",
    )
    min_mask_miou: Fraction | None = Field(
        default=None,
        description="Smallest mean intersection over union of the given mask and the mask parsed from the painted "
        "picture (`mask/miou`).",
    )
    min_mask_accuracy: Fraction | None = Field(
        default=None,
        description="Smallest share of pixels that are parsed as the label the mask asks for (`mask/accuracy`).",
    )
    min_hair_colour: Fraction | None = Field(
        default=None,
        description="Smallest share of pictures whose hair has the colour that the prompt names "
        "(`mask/hair_colour_accuracy`).",
    )
    max_clip_distance: float | None = Field(
        default=None,
        description="Largest mean distance, 1 - cosine of CLIP embeddings, between painted pictures and their source "
        "photographs (`mask/clip_distance`).",
    )
    min_edge_agreement_gain: float | None = Field(
        default=None,
        description="Smallest gain in sketch edge agreement (F1 within 2 px) over the same rows painted without the "
        "sketch (`sketch/edge_agreement_gain`).",
    )
    max_frechet_ratio_to_champion: PositiveFloat | None = Field(
        default=None,
        description="Largest ratio of the candidate's Fréchet distance to the champion's. A candidate measured on "
        "other rows, at another resolution or with another extractor than the champion is refused.",
    )

    @model_validator(mode="before")
    @classmethod
    def _open_is_one_word(cls, given: Any) -> Any:
        return {"open": True} if given == "open" else given


class Watch(Section):
    """Section ``watch``: measurements and previews of training, and when it stops by itself."""

    held_out_rows: Annotated[int, Field(ge=0)] = Field(
        default=64,
        description="Held-out rows, the first by id, whose loss is measured on fixed noise at eight times; 0 measures "
        "none.",
    )
    held_out_every: PositiveInt | None = Field(
        default=None,
        description="Optimizer steps between two measurements of the held-out loss; null: at each checkpoint. The "
        "last step is always measured.",
    )
    preview_every: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Optimizer steps between two previews (sheets of painted held-out rows, in MLflow); 0 paints "
        "none. Otherwise the last step is always painted. Needs `held_out_rows`.",
    )
    preview_rows: PositiveInt = Field(
        default=4, description="Held-out rows on a preview, each painted from its mask and from its sketch."
    )
    max_loss_ratio: Annotated[float, Field(gt=1)] | None = Field(
        default=10.0,
        description="Training stops before a step whose loss is more than this many times the usual loss at its "
        "times, taken from the last 100 steps; null never stops for that. A loss that is not finite always stops it.",
    )


class Drift(Section):
    """Section ``drift``: how far new photographs and served prompts lie from the champion's training set.

    The distance is the squared maximum mean discrepancy (MMD) with a Gaussian kernel, 0 for equal distributions and at
    most 2. Drift needs both: a permutation test that finds the difference, and a distance that matters.
    """

    rows: Annotated[int, Field(ge=0, le=2000)] = Field(
        default=500,
        description="Most photographs (or groups of prompts) that are drawn at random from each side; 0 measures no "
        "drift.",
    )
    level: Annotated[float, Field(ge=0.9, le=0.999)] = Field(
        default=0.99,
        description="Confidence level of the test: of comparisons without drift, a share of 1 - `level` is called a "
        "difference.",
    )
    min_distance: PositiveFloat = Field(
        default=0.02, description="Smallest distance of photographs that counts as drift, on a scale from 0 to 2."
    )
    min_prompt_distance: PositiveFloat = Field(
        default=0.2,
        description="Smallest distance of groups of prompts that counts as drift, on a scale from 0 to 2. It is larger "
        "than `min_distance`, since people never write quite like captions.",
    )
