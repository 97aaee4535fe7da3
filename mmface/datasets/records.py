"""Row schemas of every dataset: the only home of column names (§6).

Arrays travel as raw little-endian bytes; their shapes stand in the manifest's ``extra``. Rows of a mapping stage end
with ``origin``: SHA-256 over what the stage read of its input row, by which a grown collection reuses them.
"""

from __future__ import annotations

import pyarrow as pa

ORIGIN = ("origin", pa.binary(32))
ADDED = {"note"}  # nullable columns that datasets of earlier releases lack

# One row an image. ``image`` holds the source file's bytes; ``id`` is their SHA-256.
IMAGES = pa.schema(
    [
        ("id", pa.string()),
        ("uri", pa.string()),
        ("source", pa.string()),  # name of the collection
        ("split", pa.string()),  # "train" | "test"
        ("listed", pa.bool_()),  # the split comes from the collection's list, not from the hash
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("perceptual_hash", pa.string()),  # 64 bits as hex
        ("image", pa.binary()),
        ("mask", pa.binary()),  # supplied label-index PNG, or null
        ("captions", pa.list_(pa.string())),  # supplied captions, or null
        ("note", pa.string()),  # what of the file could not be followed (its colour profile), or null
        ORIGIN,
    ]
)

# Label-index mask PNG (palette) and grey sketch PNG (dark lines on white), both of the square-cropped image.
CONDITIONS = pa.schema(
    [
        ("id", pa.string()),
        ("mask", pa.binary()),
        ("sketch", pa.binary()),
        ("face_area", pa.float32()),  # share of the picture from skin to lower lip
        ("label_coverage", pa.float32()),  # share of the 19 labels that the mask holds
        ("edge_density", pa.float32()),  # share of the sketch that is dark
        ("outlier", pa.string()),  # the first of these figures outside data.quality, or null
        ("mask_origin", pa.string()),  # "supplied" | the parser's name
        ORIGIN,
    ]
)

CAPTIONS = pa.schema(
    [
        ("id", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("hair_colour", pa.string()),  # measured from the mask's hair pixels, or null
        ("captioner", pa.string()),  # "supplied" | "facts" | a model's name
        ("rejections", pa.map_(pa.string(), pa.int32())),  # answers that the rules or the check refused, by reason
        ORIGIN,
    ]
)

# Raw moments, float32 [V, C, H, W] each (``extra.latent_views``, ``extra.latent_shape``), the first view being the
# photograph as it is; ``image_logvar`` is null for a VAE without a posterior.
LATENTS = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),  # name of the collection
        ("split", pa.string()),
        ("image_mean", pa.binary()),
        ("image_logvar", pa.binary()),
        ("mask_mean", pa.binary()),
        ("sketch_mean", pa.binary()),
        ORIGIN,
    ]
)

# A row's different captions, each without the tokens at its end that are the empty prompt's, bit for bit
# (:data:`EMPTY_FILE`); ``extra.text_shape`` = [captions, L, D]. float32.
EMPTY_FILE = "empty.safetensors"
TEXT = pa.schema(
    [
        ("id", pa.string()),
        ("places", pa.list_(pa.int32())),  # of each caption among the different ones
        ("lengths", pa.list_(pa.int32())),  # stored tokens of each different caption
        ("sequence", pa.binary()),  # [sum of lengths, D]
        ("pooled", pa.binary()),  # [different captions, D]
        ORIGIN,
    ]
)

# One painted held-out row: what was asked, what came out, and its figures.
SAMPLES = pa.schema(
    [
        ("id", pa.string()),  # "<image id>-<modality>"
        ("image_id", pa.string()),
        ("modality", pa.string()),
        ("prompt", pa.string()),
        ("seed", pa.int64()),
        ("condition", pa.binary()),
        ("generated", pa.binary()),
        ("source", pa.binary()),
        ("metrics", pa.map_(pa.string(), pa.float64())),
        ("features_generated", pa.binary()),  # float32, the Fréchet extractor's
        ("features_source", pa.binary()),
    ]
)

QUARANTINE = pa.schema(
    [
        ("id", pa.string()),
        ("uri", pa.string()),
        ("stage", pa.string()),
        ("error", pa.string()),
        ("message", pa.string()),
    ]
)
