"""The plan of a retraining: which datasets a recipe leads to, with the inputs and the identity of each (§6).

An identity is known before any work is done, so a flow can check whether a dataset is published without loading a
network. It contains only the recipe keys that the stage reads: changing captions does not change latents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from mmface.bundles.weights import SCRATCH, weights_identity
from mmface.config import PICTURE_SIDE, Collection, Recipe, Sampling
from mmface.data.sources.files import Listing
from mmface.data.sources.identity import identify
from mmface.datasets.dataset import upstream
from mmface.datasets.manifest import Identity
from mmface.datasets.stage import VERSIONS
from mmface.networks.components import component_identity
from mmface.store import Store

FACTS = "facts"  # the captioner without weights
PORTRAITS = "portraits"
STANDARD = ("inception", "dino", "lpips")  # networks of the section ``metrics``
# Keys that are not part of an identity while they have their default, so that older samples keep theirs.
ADDED_SAMPLING = ("drawing_guidance_scale", "guidance_start", "guidance_end")
# The components that each stage uses; they are part of its identity.
COMPONENTS: dict[str, tuple[str, ...]] = {
    "conditions": ("parser", "sketcher"),
    "captions": ("text_encoder", "captioner", "rewriter"),
    "latents": ("vae",),
    "text": ("text_encoder",),
    "features": ("clip",),
    "drift": ("clip",),
    "samples": ("vae", "text_encoder"),
    "scores": ("clip", "parser", "sketcher"),
    "bundle": ("vae", "text_encoder"),
}


P = ParamSpec("P")


def _replayable(plan: Callable[Concatenate[Recipe, P], Identity]) -> Callable[Concatenate[Recipe, P], Identity]:
    """Decorator for stages that may quarantine rows: a replay, numbered by ``data.replay``, is a new dataset."""

    @wraps(plan)
    def numbered(recipe: Recipe, /, *args: P.args, **kwargs: P.kwargs) -> Identity:
        identity = plan(recipe, *args, **kwargs)
        return identity.attempt(recipe.data.replay.get(identity.stage, 0))

    return numbered


def portraits(recipe: Recipe) -> Identity:
    """The collection of drawn portraits."""
    drawn = recipe.portraits
    return Identity(
        stage="portraits",
        version=VERSIONS["portraits"],
        config={"n": drawn.n, "size": drawn.size, "seed": recipe.seed},
    )


@_replayable
def images(recipe: Recipe, home: Store, listings: Sequence[Listing] | None = None) -> Identity:
    """The photographs in ``recipe.sources``; the identity contains the content of their files.

    Args:
        home: caches digests of files.
        listings: the files of the sources, if the caller has listed them already.
    """
    keys = {"min_size", "max_megapixels", "near_duplicate_bits", "holdout", "shard_rows"}
    return Identity(
        stage="images",
        version=VERSIONS["images"],
        config={"sources": identify(recipe.sources, home, listings), **_data(recipe, keys)},
        listing=("sources",),
    )


@_replayable
def conditions(recipe: Recipe, images: str) -> Identity:
    """Masks and sketches."""
    return Identity(
        stage="conditions",
        version=VERSIONS["conditions"],
        config={**_data(recipe, {"max_megapixels", "min_face_area", "parse_flip", "quality"}), **_side(recipe)},
        inputs={"images": images},
        weights=_weights(recipe, "conditions"),
    )


@_replayable
def captions(recipe: Recipe, images: str, conditions: str) -> Identity:
    """Captions, shortened to the length of the text encoder's tokenizer."""
    config: dict[str, Any] = {**_data(recipe, {"captions_per_image", "max_megapixels"}), **_side(recipe)}
    if recipe.components.captioner == FACTS:
        config["captioner"] = FACTS if recipe.captioning.facts == "basic" else f"{FACTS}: {recipe.captioning.facts}"
    else:
        config["captioning"] = recipe.captioning.model_dump(mode="json", exclude={"batch_size", "facts"})
    return Identity(
        stage="captions",
        version=VERSIONS["captions"],
        config=config,
        inputs={"images": images, "conditions": conditions},
        weights=_weights(recipe, "captions"),
    )


@_replayable
def latents(recipe: Recipe, resolution: int, images: str, conditions: str) -> Identity:
    """VAE moments of photographs, masks and sketches at one resolution."""
    return Identity(
        stage=f"latents-{resolution}",
        version=VERSIONS["latents"],
        config={
            "resolution": resolution,
            **_data(recipe, {"mask_resize", "max_megapixels", "views"}),
            **_side(recipe),
        },
        inputs={"images": images, "conditions": conditions},
        weights=_weights(recipe, "latents"),
    )


@_replayable
def text(recipe: Recipe, captions: str) -> Identity:
    """Embedded captions."""
    return Identity(
        stage="text",
        version=VERSIONS["text"],
        config=_data(recipe, {"captions_per_image", "text_padding"}),
        inputs={"captions": captions},
        weights=_weights(recipe, "text"),
    )


@_replayable
def features(recipe: Recipe, images: str) -> Identity:
    """Embeddings of all photographs, by ``metrics.dino`` if the recipe names it, else by ``components.clip``.

    Made only for what needs them: no stage of a retraining reads them.
    """
    return Identity(
        stage="features",
        version=VERSIONS["features"],
        config=_embedded(recipe),
        inputs={"images": images},
        weights=_embedder(recipe),
    )


def drift(recipe: Recipe, images: str, training: str) -> Identity:
    """Embeddings of a sample of the photographs that are new since ``training``, and of a sample of ``training``.

    Args:
        images: the ``images`` dataset of what the collections hold now.
        training: the ``images`` dataset that the champion was trained on.
    """
    return Identity(
        stage="drift",
        version=VERSIONS["drift"],
        config={"seed": recipe.seed, "rows": recipe.drift.rows, **_embedded(recipe)},
        inputs={"images": images, "training": training},
        weights=_embedder(recipe),
    )


def train(recipe: Recipe, phase: int, latents: str, text: str, previous: str | None) -> Identity:
    """The transformer after one phase."""
    here = recipe.phases[phase]
    # These keys do not change what is learnt.
    ignored = {"checkpoint_every", "keep_last", "log_every", "num_workers", "min_workers", "use_gpu"}
    ignored |= {"parallel", "gradient_checkpointing", "compile"}
    # A later phase starts from the previous one, whose fingerprint contains the start.
    first = previous is None and recipe.train.start != SCRATCH
    inputs = {"latents": latents, "text": text}
    return Identity(
        stage=f"train-{phase}-{here.resolution}",
        version=VERSIONS["train"],
        config={
            "seed": recipe.training_seed,
            "model": recipe.model.model_dump(mode="json"),
            "objective": recipe.objective.model_dump(mode="json"),
            "phase": here.model_dump(mode="json"),
            "train": recipe.train.model_dump(mode="json", exclude={*ignored, "start", "seed"}),
        },
        inputs=inputs | ({"previous": previous} if previous else {}),
        weights={"start": weights_identity(recipe.train.start)} if first else {},
    )


def evalset(recipe: Recipe) -> Identity:
    """The evaluation set; chosen once, so its identity holds the settings of the evaluation and no dataset (§8)."""
    return Identity(
        stage="evalset",
        version=VERSIONS["evalset"],
        config={
            **recipe.evaluate.model_dump(mode="json", include={"set", "n", "n_sketch"}),
            "sources": [_collection(recipe, source) for source in recipe.sources] or [_drawn(recipe)],
            **_data(recipe, {"holdout"}),
            **_side(recipe),
        },
    )


def samples(recipe: Recipe, train: str, evalset: str) -> Identity:
    """Images that a trained transformer paints for an evaluation set."""
    return Identity(
        stage="samples",
        version=VERSIONS["samples"],
        config=_painting(recipe),
        inputs={"train": train, "evalset": evalset},
        weights=_weights(recipe, "samples"),
    )


def samples_of_bundle(recipe: Recipe, bundle: str, evalset: str) -> Identity:
    """Images that a bundle paints for an evaluation set.

    Args:
        recipe: of the bundle.
        bundle: from :func:`mmface.bundles.weights.bundle_identity`.
    """
    return Identity(
        stage="samples",
        version=VERSIONS["samples"],
        config=_painting(recipe),
        inputs={"evalset": evalset},
        weights={"bundle": bundle},
    )


def samples_of_pictures(recipe: Recipe, pictures: str, evalset: str) -> Identity:
    """Images that another system painted for an evaluation set.

    Args:
        pictures: digest of the files.
    """
    return Identity(
        stage="samples",
        version=VERSIONS["samples"],
        config={"resolution": recipe.phases[-1].resolution, **_data(recipe, {"max_megapixels"}), **_side(recipe)},
        inputs={"evalset": evalset},
        weights={"pictures": pictures},
    )


def scores(recipe: Recipe, samples: str, evalset: str, features: str | None = None) -> Identity:
    """Measurements of samples, with the judges of the recipe.

    Args:
        features: of the training photographs, to find memorised images; None does not look for them.
    """
    given = {"parser": recipe.evaluate.parser, **{name: getattr(recipe.metrics, name) for name in STANDARD}}
    llm: dict[str, Any] = {}
    if recipe.components.rewriter is not None:  # without one there is no LLM score
        given |= {role: getattr(recipe.components, role) for role in ("captioner", "rewriter")}
        settings = {"max_new_tokens", "min_words", "retries"}
        llm = {"llm_score": recipe.captioning.model_dump(mode="json", include=settings)}
    return Identity(
        stage="scores",
        version=VERSIONS["scores"],
        config={"resolution": recipe.phases[-1].resolution, **llm},
        inputs={"samples": samples, "evalset": evalset} | ({"features": features} if features else {}),
        weights=_weights(recipe, "scores")
        | {name: component_identity(place) for name, place in given.items() if place},
    )


def bundle(recipe: Recipe, train: str, scores: str) -> Identity:
    """The trained model as a bundle, with its metrics (§8)."""
    return Identity(
        stage="bundle",
        version=VERSIONS["bundle"],
        config={
            "name": recipe.name,
            "gate": recipe.gate.model_dump(mode="json"),
            "grid": recipe.evaluate.grid,
            "serve": recipe.serve.model_dump(mode="json", include={"model_name"}),
        },
        inputs={"train": train, "scores": scores},
        weights=_weights(recipe, "bundle"),
    )


def lineage(uri: str) -> dict[str, dict[str, Any]]:
    """Every dataset that led to ``uri``, by stage: key, counts and weights, back to sources and licences (§8)."""
    return {
        stage: {
            "dataset": f"datasets/{stage}/{dataset.manifest.fingerprint}",
            "counts": dataset.manifest.counts,
            "weights": dataset.manifest.weights,
            "code_version": dataset.manifest.code_version,
            # ``sources`` (the collections with their licences) is only in the manifest of ``images``.
            **{name: value for name, value in dataset.manifest.extra.items() if name == "sources"},
        }
        for stage, dataset in upstream(uri).items()
    }


def _data(recipe: Recipe, keys: set[str]) -> dict[str, Any]:
    return recipe.data.model_dump(mode="json", include=keys)


def _painting(recipe: Recipe) -> dict[str, Any]:
    plain = Sampling()
    added = {name for name in ADDED_SAMPLING if getattr(recipe.sampling, name) == getattr(plain, name)}
    return {
        "sampling": recipe.sampling.model_dump(mode="json", exclude=added),
        "resolution": recipe.phases[-1].resolution,
        **_data(recipe, {"mask_resize", "max_megapixels", "text_padding"}),
        **_side(recipe),
    }


def _collection(recipe: Recipe, source: Collection) -> dict[str, Any]:
    """The name of a collection, whatever it holds now: another number of drawn portraits lies in another folder."""
    if f"/datasets/{PORTRAITS}/" in source.images:
        return _drawn(recipe)
    return {"name": source.name, "images": source.images}


def _drawn(recipe: Recipe) -> dict[str, Any]:
    return {"name": PORTRAITS, "size": recipe.portraits.size, "seed": recipe.seed}


def _embedded(recipe: Recipe) -> dict[str, Any]:
    """What pictures are embedded: as the evaluation sees photographs."""
    return {"resolution": recipe.phases[-1].resolution, **_data(recipe, {"max_megapixels"}), **_side(recipe)}


def _embedder(recipe: Recipe) -> dict[str, str]:
    dino = recipe.metrics.dino
    return {"dino": component_identity(dino)} if dino else _weights(recipe, "features")


def _side(recipe: Recipe) -> dict[str, Any]:
    """The side of stored masks and sketches, if a phase needs more than the default; else nothing."""
    return {"picture_side": recipe.picture_side} if recipe.picture_side > PICTURE_SIDE else {}


def _weights(recipe: Recipe, stage: str) -> dict[str, str]:
    used = {role: getattr(recipe.components, role) for role in COMPONENTS[stage]}
    return {role: component_identity(name) for role, name in used.items() if name not in (None, FACTS)}
