"""Checks before anything starts, so that a user error costs a second and not the stages before the one that fails."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from uuid import uuid4

import httpx

from mmface.bundles.tracking import tracking_uri
from mmface.bundles.weights import SCRATCH
from mmface.config import Recipe
from mmface.config.environment import user_folder_problem
from mmface.data.sources.layouts import list_collections
from mmface.errors import CredentialsError, RecipeError, ServiceError, StoreFullError, UnreachableError
from mmface.networks.hub import pin_components
from mmface.store import HOME_VARIABLE, home
from mmface.store.reach import dashboard_address, ray_address, unreachable

ADDRESSES = {
    "RAY_ADDRESS": "Ray on this machine",
    "MLFLOW_TRACKING_URI": "SQLite below MMFACE_HOME",
    "PREFECT_API_URL": "Prefect in this process",
}
CLOCKS = (*ADDRESSES, "AWS_ENDPOINT_URL")
SERVICE = "MMFACE_SERVE_URL"  # a running service that follows the champion
KEY = "MMFACE_API_KEY"  # the API key for that service, needed if the recipe has serve.api_keys_env
PROBE = "doctor/probe-{}"  # a new name each time: with a leftover of an earlier probe, nothing would be written
LEAST_GIB = 1.0
MAX_SKEW_SECONDS = 120.0  # S3 refuses at 15 minutes, signed tokens sooner


def check(recipe: Recipe) -> None:
    """Checks the collections, components, start weights, home, cluster, and every address that is set.

    Raises:
        RecipeError: the start weights do not exist or have another architecture, a component's hub id has no commit,
            or the cluster has too few GPUs.
        InputError: a collection's folder does not exist or is empty.
        UnreachableError: nothing answers at an address.
        CredentialsError: credentials or a token are refused.
        StoreFullError: the home has too little room.
        ServiceError: a bucket may not be listed, the clock is wrong, or Ray, MLflow or Prefect cannot work with the
            temporary folder, the home or the user's folder.
    """
    list_collections(recipe.sources, recipe.data.min_matched)
    pin_components(recipe)
    for variable, without in ADDRESSES.items():
        problem = unreachable(os.environ.get(variable, ""))
        if problem:
            raise UnreachableError(f"{problem}; start it, or unset {variable} to use {without}", field=variable)
    for variable, seconds in skews():
        if abs(seconds) > MAX_SKEW_SECONDS:
            raise ServiceError(f"{describe_skew(seconds)}; set the clock (NTP)", field=variable)
    if not dashboard_address():
        ray_address()
    check_home()
    check_cluster(recipe)
    if recipe.train.start != SCRATCH:
        from mmface.train.start import check_start

        check_start(recipe)


def check_home() -> None:
    """Checks that the home is writable and has room. Raises ServiceError with the fix."""
    probe_home()
    free = free_gib()
    if free is not None and free < LEAST_GIB:
        message = f"{home().uri} has {free:.2f} GiB left; make room (mmface datasets gc) or choose another place"
        raise StoreFullError(message, field=HOME_VARIABLE)
    problem = user_folder_problem()
    if problem:
        raise ServiceError(problem, field="HOME")


def probe_home() -> None:
    """Writes a file as publishing does (only if absent) and deletes it.

    Raises:
        ServiceError: the home is not writable, or MLflow has no place.
    """
    store, probe = home(), PROBE.format(uuid4().hex)
    store.write(probe, b"probe", if_absent=True)
    store.delete(probe)
    if store.local_path is not None:
        tracking_uri()


def check_cluster(recipe: Recipe) -> None:
    """Checks the token and the number of GPUs of the cluster, if stages run as its jobs."""
    address = dashboard_address()
    if address is None:
        return
    from flows.cluster.client import Cluster

    gpus = Cluster(address).resources().get("GPU", 0.0)
    train = recipe.train
    needed = (train.min_workers or train.num_workers) if train.use_gpu else 0
    needed = max(needed, *(one.gpus for one in recipe.jobs.resources.values()), 0)
    if gpus < needed and not recipe.jobs.autoscaling:
        remedy = "ask for fewer, add nodes, or set jobs.autoscaling if the cluster adds nodes itself"
        message = f"training needs {needed:g} GPUs, but the cluster at {address} has {gpus:g}; {remedy}"
        raise RecipeError(message, field="train.num_workers")


def check_key(recipe: Recipe) -> None:
    """Raises CredentialsError when the service that a release tests requires a key and none is set."""
    tried = os.environ.get(SERVICE) or not dashboard_address()
    if recipe.serve.api_keys_env and tried and not os.environ.get(KEY):
        message = (
            "the service requires keys (serve.api_keys_env); set it to one, so that the flow can test the new champion"
        )
        raise CredentialsError(message, field=KEY)


def free_gib() -> float | None:
    """Free space of a local home in GiB; None for a home on S3."""
    root = home().local_path
    return None if root is None else shutil.disk_usage(root).free / 2**30


def skews() -> Iterator[tuple[str, float]]:
    """Each server that sends its time over HTTP, with the seconds by which this machine's clock is ahead of it."""
    for variable in CLOCKS:
        address = os.environ.get(variable, "")
        if not address.startswith(("http://", "https://")):
            continue
        try:
            date = httpx.get(address, timeout=5.0).headers.get("Date")
        except httpx.HTTPError:
            continue  # unreachable servers are reported elsewhere
        if date:
            yield variable, time.time() - parsedate_to_datetime(date).timestamp()


def describe_skew(seconds: float) -> str:
    """A clock difference in words."""
    return f"this machine's clock is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} the server's"
