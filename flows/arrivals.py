"""The flow that detects new photographs, by their content and not by a time (§6)."""

from __future__ import annotations

import logging

from prefect import flow
from prefect.events import emit_event

from flows.steps.hooks import HOOKS
from mmface import plan
from mmface.config.load import load_recipe
from mmface.datasets.dataset import published
from mmface.store import home

log = logging.getLogger(__name__)

EVENT = "mmface.collection.changed"
ANNOUNCED = "watch"


@flow(name="watch", on_failure=HOOKS["on_failure"])
def watch(recipe: str = "demo", overrides: tuple[str, ...] = ()) -> bool:
    """Emits ``mmface.collection.changed`` when no ``images`` dataset exists for what the collections hold now.

    The content is identified by the fingerprint of the ``images`` dataset: names, captions and digests of all files
    (on S3 their ETags). The event is emitted once for each content, whether or not anything acted on it.

    Args:
        recipe: Name of a recipe that ships, or a path or s3:// address of a YAML file; its sources are checked.
        overrides: KEY=VALUE, one recipe key each, such as sources=[{name: a, images: s3://b/c}].
            ``mmface recipe explain KEY`` describes a key.

    Returns:
        Whether the event was emitted; never for a recipe that trains on drawn portraits.

    Raises:
        MMFaceError: a collection does not exist or may not be listed.
    """
    resolved, place = load_recipe(recipe, list(overrides)), home()
    if not resolved.sources:
        log.info("recipe %s has no sources: drawn portraits never change, so there is nothing to watch", resolved.name)
        return False
    identity = plan.images(resolved, place)
    if published(place, identity):
        log.info("nothing new: dataset images/%s is published already", identity.fingerprint)
        return False
    key = f"{ANNOUNCED}/{resolved.name}.json"
    content = identity.fingerprint.encode()
    if place.exists(key) and place.read(key) == content:
        log.info("event sent before: dataset images/%s is not prepared yet", identity.fingerprint)
        return False
    names = [collection.name for collection in resolved.sources]
    payload = {"recipe": recipe, "overrides": list(overrides), "images": identity.fingerprint, "collections": names}
    emit_event(EVENT, {"prefect.resource.id": f"mmface.collection.{resolved.name}"}, payload=payload)
    place.write(key, content)
    log.info("new content in %s: event sent to prepare images/%s", ", ".join(names), identity.fingerprint)
    return True
