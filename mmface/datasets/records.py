"""Row schemas of every dataset: the only place that defines column names (§6).

Arrays are stored as raw little-endian bytes; their shapes are in ``extra`` of the manifest. The last column of stages
that map rows is ``origin``: SHA-256 over the columns that the stage read of the input row. By it a grown collection
finds the rows that it can reuse.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ORIGIN = ("origin", pa.binary(32))
ADDED = {"note"}  # nullable columns that are missing in datasets of earlier releases

# One row per photograph. ``image`` holds the bytes of the source file; ``id`` is their SHA-256.
IMAGES = pa.schema(
    [
        ("id", pa.string()),
        ("uri", pa.string()),
        ("source", pa.string()),  # name of the collection
        ("split", pa.string()),  # "train" | "test"
        ("listed", pa.bool_()),  # whether the split comes from a list of the collection instead of the hash
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("perceptual_hash", pa.string()),  # 64 bits as hex
        ("image", pa.binary()),
        ("mask", pa.binary()),  # supplied label-index PNG, or null
        ("captions", pa.list_(pa.string())),  # supplied captions, or null
        ("note", pa.string()),  # what in the file was ignored (its colour profile), or null
        ORIGIN,
    ]
)

# Label-index mask PNG (palette) and grey sketch PNG (dark lines on white), both of the square-cropped image.
CONDITIONS = pa.schema(
    [
        ("id", pa.string()),
        ("mask", pa.binary()),
        ("sketch", pa.binary()),
        ("face_area", pa.float32()),  # fraction of pixels with a face label (skin to lower lip)
        ("label_coverage", pa.float32()),  # fraction of the 19 labels that occur in the mask
        ("edge_density", pa.float32()),  # fraction of dark pixels in the sketch
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
        ("rejections", pa.map_(pa.string(), pa.int32())),  # number of rejected answers of the model, by reason
        ORIGIN,
    ]
)

# Raw VAE moments, float32 [V, C, H, W] each (V: ``extra.latent_views``, the rest: ``extra.latent_shape``). View 0 is
# the unchanged photograph; ``image_logvar`` is null for a VAE without a posterior.
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

# Embeddings of a row's distinct captions, float32. Trailing tokens that equal the empty prompt's bit for bit are not
# stored; readers take them from :data:`EMPTY_FILE`. ``extra.text_shape`` = [captions, L, D].
EMPTY_FILE = "empty.safetensors"
PREVIEWS = "previews"  # folder in a published training phase: sheets ``step-<step>.png``, and GUIDANCE
GUIDANCE = "guidance.png"
TEXT = pa.schema(
    [
        ("id", pa.string()),
        ("places", pa.list_(pa.int32())),  # of each caption: its index among the distinct captions
        ("lengths", pa.list_(pa.int32())),  # of each distinct caption: the number of stored tokens
        ("sequence", pa.binary()),  # [sum of lengths, D]
        ("pooled", pa.binary()),  # [distinct captions, D]
        ORIGIN,
    ]
)

# One row of an evaluation set: what a system is asked to paint, and the held-out photograph. A row has
# everything that painting and measuring need, so that a set outlives the collection that it was chosen from.
EVALSET = pa.schema(
    [
        ("id", pa.string()),  # of the photograph
        ("source", pa.string()),  # name of the collection
        ("perceptual_hash", pa.string()),
        ("image", pa.binary()),  # bytes of the photograph's file
        ("mask", pa.binary()),
        ("sketch", pa.binary()),
        ("captions", pa.list_(pa.string())),
        ("prompt", pa.string()),
        ("seed", pa.int64()),
        ("modalities", pa.list_(pa.string())),  # "mask", "sketch", "unconditional"
        ("mask_origin", pa.string()),
    ]
)

# One image generated for a row of an evaluation set: the request and the result.
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
    ]
)

# The measurements of one sample. ``extra.measures`` says what each metric was measured with
# (:class:`mmface.evaluate.scores.Measure`), ``extra.resolution`` at how many pixels.
SCORES = pa.schema(
    [
        ("id", pa.string()),
        ("image_id", pa.string()),
        ("modality", pa.string()),
        ("metrics", pa.map_(pa.string(), pa.float64())),
        ("hit", pa.list_(pa.int64(), 19)),  # pixels of each label in the given mask that the judge finds there
        ("given", pa.list_(pa.int64(), 19)),  # pixels of each label in the given mask
        ("found", pa.list_(pa.int64(), 19)),  # pixels of each label that the judge finds in the generated image
        ("groups", pa.map_(pa.string(), pa.string())),  # attribute of the photograph: value, such as hair: blond
        ("features", pa.map_(pa.string(), pa.binary())),  # extractor: float32 of the generated image
        ("source_features", pa.map_(pa.string(), pa.binary())),  # of the photograph
    ]
)

# Embeddings of photographs at the resolution of the evaluation, float32.
FEATURES = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),  # name of the collection
        ("split", pa.string()),
        ("perceptual_hash", pa.string()),
        ("features", pa.binary()),
        ORIGIN,
    ]
)

# A random sample of new photographs, and one of the training photographs that they are compared with.
DRIFT = pa.schema(
    [
        ("id", pa.string()),
        ("uri", pa.string()),
        ("source", pa.string()),
        ("new", pa.bool_()),  # false for a training photograph
        ("features", pa.binary()),
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


def unpack(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """A column of float32 vectors of one length -> [n, D]; [0, 0] without rows."""
    rows = [np.frombuffer(value, "<f4") for value in column.to_pylist()]
    return np.stack(rows).astype(np.float32) if rows else np.zeros((0, 0), np.float32)
