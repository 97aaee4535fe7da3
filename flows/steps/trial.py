"""One picture over HTTP from the champion: the proof that the running service has taken it up."""

from __future__ import annotations

import logging
import os
import time

import httpx
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.steps.preflight import KEY, SERVICE
from mmface.config import Recipe
from mmface.errors import CredentialsError, ServiceError
from mmface.store import Store
from mmface.store.reach import dashboard_address, unreachable

log = logging.getLogger(__name__)

SWAP_SECONDS = 300.0
PAUSE_SECONDS = 2.0
# Not served yet, or too much to do at the moment: worth another question.
PASSING = (404, 408, 429, 503)


@task(cache_policy=NO_CACHE)
def try_service(recipe: Recipe, home: Store, version: str, prompt: str, mask: bytes) -> bytes | None:
    """A PNG from the service of ``MMFACE_SERVE_URL`` or the recipe's address, else from one started and stopped here.

    None on a cluster whose service is not named: starting another one there is not for a flow to do.

    Raises:
        ServiceError: the service does not answer, or not with this version.
    """
    url = os.environ.get(SERVICE)
    if not url and dashboard_address():
        log.info("serve: not tried; set %s to the address of the service", SERVICE)
        return None
    from serve.deploy.app import base_url, run, shutdown

    here = base_url(recipe.serve)
    if not url and unreachable(here) is None:
        url = here  # an mmface serve that follows the champion
    if url:
        log.info("serve: waiting for version %s at %s", version, url)
        return ask(url.rstrip("/"), recipe, version, prompt, mask)
    log.info("serve: loading the champion")
    run(recipe, home=home.uri)
    try:
        return ask(here, recipe, version, prompt, mask)
    finally:
        shutdown()


def ask(url: str, recipe: Recipe, version: str, prompt: str, mask: bytes) -> bytes:
    """A PNG painted by ``version``, once the service has taken it up.

    Raises:
        ServiceError: it refuses, or does not answer with that version in time.
    """
    end = time.monotonic() + SWAP_SECONDS
    while True:
        try:
            answer = _post(url, recipe, version, prompt, mask)
        except httpx.HTTPError as error:
            said = f"does not answer ({error})"
        else:
            if answer.is_success:
                log.info("serve: version %s paints at %s", version, url)
                return answer.content
            said = f"answers {answer.status_code}: {answer.text[:300]}"
            if answer.status_code not in PASSING:
                raise _refusal(answer.status_code, f"{url} {said}")
        if time.monotonic() > end:
            remedy = f"see its log; once it is mended: mmface promote {version} --why TEXT"
            raise ServiceError(
                f"{url} {said}, {SWAP_SECONDS:.0f} s after version {version} got the alias; {remedy}", field=SERVICE
            )
        time.sleep(PAUSE_SECONDS)


def _refusal(status: int, message: str) -> ServiceError:
    if status == 401:
        return CredentialsError(f"{message}; set {KEY} to a key of the service", field=KEY)
    return ServiceError(f"{message}; is this MMFace's service?", field=SERVICE)


def _post(url: str, recipe: Recipe, version: str, prompt: str, mask: bytes) -> httpx.Response:
    key = os.environ.get(KEY)
    return httpx.post(
        f"{url}/v1/images/edits",
        data={"model": f"{recipe.serve.model_name}:{version}", "modality": "mask", "prompt": prompt, "seed": "0"},
        files={"image": ("mask.png", mask, "image/png")},
        headers={"Accept": "image/png"} | ({"Authorization": f"Bearer {key}"} if key else {}),
        timeout=recipe.serve.timeout_s,
    )
