"""The flow that detects new photographs, by their content and not by a time (§6), and measures drift."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from prefect import flow
from prefect.events import emit_event

from flows.drift import Watched, learnt_by_champion, measure_photographs, measure_prompts
from flows.steps.hooks import HOOKS
from mmface import plan
from mmface.config import Recipe
from mmface.config.environment import prepare_environment
from mmface.config.load import load_recipe
from mmface.datasets.dataset import published
from mmface.datasets.manifest import Identity
from mmface.errors import StageError
from mmface.store import Store, home

log = logging.getLogger(__name__)

EVENT = "mmface.collection.changed"
ANNOUNCED = "watch"


# It runs every few minutes: notifying of each success would say nothing.
@flow(name="watch", **{when: hooks for when, hooks in HOOKS.items() if when != "on_completion"})
def watch(recipe: str = "demo", overrides: tuple[str, ...] = ()) -> bool:
    """Emits ``mmface.collection.changed`` when no ``images`` dataset exists for what the collections hold now.

    Then it measures drift (``drift`` in the recipe): how far new photographs and served prompts lie from what the
    champion was trained on. It emits ``mmface.drift.detected`` if they lie far, once for each content.

    The content is identified by the fingerprint of the ``images`` dataset: names, captions and digests of all files
    (on S3 their ETags). The event is emitted once for each content, whether or not anything acted on it.

    Args:
        recipe: Name of a recipe that ships, or a path or s3:// address of a YAML file; its sources are checked.
        overrides: KEY=VALUE, one recipe key each, such as sources=[{name: a, images: s3://b/c}].
            ``mmface recipe explain KEY`` describes a key.

    Returns:
        Whether the event was emitted; never for a recipe that trains on drawn portraits.

    Raises:
        MMFaceError: a collection does not exist or may not be listed, or the registry does not answer.
    """
    prepare_environment()  # again, for processes that a Prefect worker starts
    resolved, place = load_recipe(recipe, list(overrides)), home()
    payload = {"recipe": recipe, "overrides": list(overrides)}
    identity = plan.images(resolved, place) if resolved.sources else None
    emitted = identity is not None and _announce(resolved, place, identity, payload)
    if identity is None:
        log.info("recipe %s has no sources: drawn portraits never change, so there is nothing to watch", resolved.name)
    learnt = learnt_by_champion(resolved, place) if resolved.drift.rows else None
    if learnt is not None:
        watched = Watched(resolved, place, learnt, payload)
        measure_prompts(watched)
        if identity is not None:
            _measure(watched, identity)
    return emitted


def _measure(watched: Watched, identity: Identity) -> None:
    """Measures drift of photographs. A stage that fails is no failure of this flow, which would repeat it every time:
    the retraining of the same photographs fails with it."""
    try:
        measure_photographs(watched, identity)
    except StageError as error:
        log.warning("drift of photographs was not measured: %s", error)


def _announce(recipe: Recipe, place: Store, identity: Identity, payload: Mapping[str, Any]) -> bool:
    """Emits the event unless the content is prepared already or was announced before; returns whether it did."""
    if published(place, identity):
        log.info("nothing new: dataset images/%s is published already", identity.fingerprint)
        return False
    key = f"{ANNOUNCED}/{recipe.name}.json"
    content = identity.fingerprint.encode()
    if place.exists(key) and place.read(key) == content:
        log.info("event sent before: dataset images/%s is not prepared yet", identity.fingerprint)
        return False
    names = [collection.name for collection in recipe.sources]
    facts = {**payload, "images": identity.fingerprint, "collections": names}
    emit_event(EVENT, {"prefect.resource.id": f"mmface.collection.{recipe.name}"}, payload=facts)
    place.write(key, content)
    log.info("new content in %s: event sent to prepare images/%s", ", ".join(names), identity.fingerprint)
    return True
