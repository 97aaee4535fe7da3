"""What each metric is measured with: network, weights and preprocessing, or why it is unavailable (§8).

A name that the field uses for one network (``fid``, ``cmmd``, ``lpips``) is kept for that network; metrics with another
one carry its name, such as ``kid_zoo-clip``.
"""

from __future__ import annotations

from typing import Any

from mmface.config import Recipe
from mmface.evaluate.measuring import llm_score
from mmface.evaluate.measuring.metrics import MS_SSIM_SIDE, WINDOW, ms_ssim_exponents, short_hash, slug
from mmface.evaluate.scores import NEAREST, SOURCE_NEAREST, Measure
from mmface.networks.components import component_identity

CMMD_CLIP = "clip-vit-large-patch14-336"  # whose embeddings the paper of CMMD measures
CLIP_INPUT = "whole image, resized and normalised by the processor of the CLIP"
PARSER_INPUT = "whole image, resized and normalised by the processor of the parser; labels at the image's resolution"
PARSER_MEANS = (
    "whole image, resized and normalised by the processor of the parser; channel means of its encoder's stages"
)
INCEPTION_INPUT = "whole image in 0..255, bilinear with antialiasing to 299 x 299, (x - 128) / 128"
DINO_INPUT = "resized, cropped and normalised by the processor of the DINOv2"
LPIPS_INPUT = "whole image in [-1, 1] at its resolution"


def network(name: str) -> str:
    """The name of a network as part of a metric's name, without its revision."""
    return slug(name.partition("@")[0])


def extractor(name: str) -> str:
    """The name of a network with the hash of its weights, such as ``zoo-clip-1a2b3c4d``: the key of its features."""
    return f"{network(name)}-{short_hash(component_identity(name))}"


def judge(recipe: Recipe) -> str:
    """The parser that judges masks."""
    return recipe.evaluate.parser or recipe.components.parser


def measures(recipe: Recipe, *, trained: bool = False) -> dict[str, Measure]:
    """What each metric of the ``scores`` stage is measured with, the unavailable ones included.

    Args:
        trained: whether features of the training photographs are given, which memorisation needs.
    """
    return {**_of_parts(recipe), **_of_sets(recipe), **_of_memory(recipe, trained)}


def _of_parts(recipe: Recipe) -> dict[str, Measure]:
    """Metrics with one value per image."""
    parts, side = recipe.components, recipe.phases[-1].resolution
    parsed: dict[str, Any] = {"extractor": extractor(judge(recipe)), "preprocessing": PARSER_INPUT}
    seen: dict[str, Any] = {"extractor": extractor(parts.clip), "preprocessing": CLIP_INPUT}
    lpips = recipe.metrics.lpips
    return {
        "miou": Measure(better="higher", **parsed),
        "accuracy": Measure(better="higher", **parsed),
        "source_miou": Measure(**parsed),
        "clip_score": Measure(better="higher", **seen),
        "source_clip_score": Measure(**seen),
        "clip_distance": Measure(better="lower", **seen),
        "lpips": Measure(better="lower", extractor=extractor(lpips), preprocessing=LPIPS_INPUT)
        if lpips
        else _without("lpips", "the backbone of LPIPS", stand_in(recipe)),
        stand_in(recipe): Measure(better="lower", **parsed),
        "ssim": Measure(better="higher", preprocessing=f"Gaussian window of {WINDOW} pixels"),
        "ms_ssim": _ms_ssim(side),
        "edge_agreement": Measure(better="higher", extractor=extractor(parts.sketcher)),
        "hair_colour_accuracy": Measure(better="higher"),
        "source_hair_colour_accuracy": Measure(),
        "llm_score": _llm_score(recipe),
    }


def stand_in(recipe: Recipe) -> str:
    """The name of the perceptual distance in the features of the judge of masks, a stand-in for LPIPS."""
    return f"lpips_{network(judge(recipe))}"


def _of_sets(recipe: Recipe) -> dict[str, Measure]:
    """Distances between the set of generated images and that of the photographs."""
    clip, metrics = recipe.components.clip, recipe.metrics
    name, kid = network(clip), f"kid_{network(clip)}"
    found = {
        "frechet": _set(clip, CLIP_INPUT),
        kid: _set(clip, CLIP_INPUT),
        # Smeared eyes and mouths change the features of a face parser, and hardly those of a small CLIP.
        f"kid_{network(judge(recipe))}": _set(judge(recipe), PARSER_MEANS),
        "cmmd" if name == CMMD_CLIP else f"cmmd_{name}": _set(clip, CLIP_INPUT),
    }
    for metric in ("fid", "kid_inception"):
        wanted = "Inception v3 with the weights of the FID"
        found[metric] = (
            _set(metrics.inception, INCEPTION_INPUT) if metrics.inception else _without("inception", wanted, kid)
        )
    found["kid_dino"] = _set(metrics.dino, DINO_INPUT) if metrics.dino else _without("dino", "a Dinov2Model", kid)
    return found


def _of_memory(recipe: Recipe, trained: bool) -> dict[str, Measure]:
    """Nearness to training photographs, in DINOv2 features where the recipe names one, else in those of the CLIP."""
    dino = recipe.metrics.dino
    with_what: dict[str, Any] = {
        "extractor": extractor(dino or recipe.components.clip),
        "preprocessing": DINO_INPUT if dino else CLIP_INPUT,
        "unavailable": "" if trained else "the features of the training photographs were not given",
    }
    return {
        "memorised": Measure(better="lower", **with_what),
        NEAREST: Measure(**with_what),
        SOURCE_NEAREST: Measure(**with_what),
    }


def _set(name: str, preprocessing: str) -> Measure:
    key = extractor(name)
    return Measure(better="lower", extractor=key, features=key, preprocessing=preprocessing)


def _without(key: str, wanted: str, instead: str) -> Measure:
    return Measure(better="lower", unavailable=f"set metrics.{key} to {wanted}; {instead} is measured instead")


def _ms_ssim(side: int) -> Measure:
    if side < MS_SSIM_SIDE:
        missing = f"images of {side} pixels are too small; it needs {MS_SSIM_SIDE}, ssim is measured instead"
        return Measure(better="higher", unavailable=missing)
    exponents = ", ".join(f"{one:.4f}" for one in ms_ssim_exponents(side))
    how = f"Gaussian window of {WINDOW} pixels, {len(ms_ssim_exponents(side))} scales with exponents {exponents}"
    return Measure(better="higher", preprocessing=how)


def _llm_score(recipe: Recipe) -> Measure:
    if missing := llm_score.unavailable(recipe):
        return Measure(better="higher", unavailable=missing)
    models = (recipe.components.captioner, str(recipe.components.rewriter))
    return Measure(better="higher", extractor=" + ".join(extractor(name) for name in models))
