"""One picture over HTTP from the champion: the proof that what was registered can be served."""

from __future__ import annotations

import base64
import logging
import os
import time

import httpx
from prefect import task
from prefect.cache_policies import NO_CACHE

from mmface.config import Recipe
from mmface.errors import ServiceError
from mmface.reach import dashboard_address
from mmface.storage import Store

log = logging.getLogger(__name__)

SERVICE = "MMFACE_SERVE_URL"  # of a service that is up and follows the champion
SWAP_SECONDS = 300.0
PAUSE_SECONDS = 2.0


@task(cache_policy=NO_CACHE)
def try_service(recipe: Recipe, home: Store, version: str, prompt: str, mask: bytes) -> bytes | None:
    """A PNG from the service of ``MMFACE_SERVE_URL``, else from one that is started here and stopped again.

    None on a cluster whose service is not named: starting another one there is not for a flow to do.

    Raises:
        ServiceError: the service does not answer, or not with this version.
    """
    url = os.environ.get(SERVICE)
    if url:
        return _from_running(url, recipe, version, prompt, mask)
    if dashboard_address():
        log.info("serve: not tried; set %s to the address of the service", SERVICE)
        return None
    from serve.app import run, shutdown

    log.info("serve: loading the champion")
    url = run(recipe, home=home.uri)
    try:
        answer = _ask(url, recipe, prompt, mask)
    except httpx.HTTPError as error:
        raise ServiceError(f"the served model did not answer: {error}", field="serve") from error
    finally:
        shutdown()
    log.info("serve: %d bytes of PNG over HTTP", len(answer.content))
    return answer.content


def _from_running(url: str, recipe: Recipe, version: str, prompt: str, mask: bytes) -> bytes:
    """Waits until the service has taken the version up."""
    log.info("serve: waiting for version %s at %s", version, url)
    end = time.monotonic() + SWAP_SECONDS
    while True:
        try:
            answer = _ask(url.rstrip("/"), recipe, prompt, mask)
            other = answer.headers.get("X-Model-Version", "unknown")
            if other == version:
                log.info("serve: version %s paints at %s", version, url)
                return answer.content
            said = f"still answers with version {other}"
        except httpx.HTTPError as error:
            said = f"does not answer ({error})"
        if time.monotonic() > end:
            remedy = "see its log; run the flow release again when it is mended"
            raise ServiceError(f"{url} {said}, {SWAP_SECONDS:.0f} s after the alias moved; {remedy}", field=SERVICE)
        time.sleep(PAUSE_SECONDS)


def _ask(url: str, recipe: Recipe, prompt: str, mask: bytes) -> httpx.Response:
    return httpx.post(
        f"{url}/v1/generate/mask",
        json={"prompt": prompt, "seed": 0, "condition": base64.b64encode(mask).decode()},
        headers={"Accept": "image/png"},
        timeout=recipe.serve.timeout_s,
    ).raise_for_status()
