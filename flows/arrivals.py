"""The flow that notices new photographs: by their content, never by the time (§6)."""

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
    """Emits ``mmface.collection.changed`` when the collections hold what no ``images`` dataset was made of.

    Names, captions and digests of all files (on S3 their ETags) are what the dataset would be named by. A content is
    told once; whether anybody could act on it is not asked again.

    Args:
        recipe: Name of a recipe that ships, or a path or s3:// address of a YAML file; its sources are looked at.
        overrides: KEY=VALUE, one recipe key each, such as sources=[{name: a, images: s3://b/c}].

    Returns:
        Whether it told anybody; a recipe of drawn portraits has nothing to tell.

    Raises:
        MMFaceError: a collection that is not there or may not be listed.
    """
    resolved, place = load_recipe(recipe, list(overrides)), home()
    if not resolved.sources:
        log.info("%s paints from drawn portraits, which never change; sources would name collections", resolved.name)
        return False
    identity = plan.images(resolved, place)
    if published(place, identity):
        log.info("nothing new: images %s are prepared", identity.fingerprint)
        return False
    key = f"{ANNOUNCED}/{resolved.name}.json"
    content = identity.fingerprint.encode()
    if place.exists(key) and place.read(key) == content:
        log.info("told already: images %s are to be prepared", identity.fingerprint)
        return False
    names = [collection.name for collection in resolved.sources]
    payload = {"recipe": recipe, "overrides": list(overrides), "images": identity.fingerprint, "collections": names}
    emit_event(EVENT, {"prefect.resource.id": f"mmface.collection.{resolved.name}"}, payload=payload)
    place.write(key, content)
    log.info("new content in %s: images %s are to be prepared", ", ".join(names), identity.fingerprint)
    return True
