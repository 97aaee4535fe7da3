"""What is checked before anything starts: a mistake should cost a second, not the way to the stage it would stop."""

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
SERVICE = "MMFACE_SERVE_URL"  # of a service that is up and follows the champion
KEY = "MMFACE_API_KEY"  # that the service asks for, where the recipe has serve.api_keys_env
PROBE = "doctor/probe-{}"  # a new name each time: an old one's remains would hide what cannot be written
LEAST_GIB = 1.0
MAX_SKEW_SECONDS = 120.0  # S3 refuses at 15 minutes, signed tokens sooner


def check(recipe: Recipe) -> None:
    """Looks at collections, components, weights to start from, the home, the cluster, and every address that is set.

    Raises:
        RecipeError: the weights that training would start from are not there or of another architecture, a
            component's hub id has no commit, or the cluster has not the GPUs.
        InputError: no such folder, or nothing in it.
        UnreachableError: an address where nothing answers.
        ServiceError: credentials or a token that are refused, a bucket that may not be listed, a full disk, a clock
            that is wrong, a temporary folder, a home or a user's folder that Ray, MLflow or Prefect cannot work with.
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
    """Writes to the home and looks at its room. Raises ServiceError with the remedy."""
    probe_home()
    free = free_gib()
    if free is not None and free < LEAST_GIB:
        message = f"{home().uri} has {free:.2f} GiB left; make room (mmface datasets gc) or set it elsewhere"
        raise StoreFullError(message, field=HOME_VARIABLE)
    problem = user_folder_problem()
    if problem:
        raise ServiceError(problem, field="HOME")


def probe_home() -> None:
    """Writes as publishing does, where the first writer wins. Raises ServiceError, also where MLflow cannot be."""
    store, probe = home(), PROBE.format(uuid4().hex)
    store.write(probe, b"probe", if_absent=True)
    store.delete(probe)
    if store.local_path is not None:
        tracking_uri()


def check_cluster(recipe: Recipe) -> None:
    """Asks a cluster that takes jobs for its GPUs, and thereby tries the token."""
    address = dashboard_address()
    if address is None:
        return
    from flows.cluster.client import Cluster

    gpus = Cluster(address).resources().get("GPU", 0.0)
    train = recipe.train
    needed = (train.min_workers or train.num_workers) if train.use_gpu else 0
    needed = max(needed, *(one.gpus for one in recipe.jobs.resources.values()), 0)
    if gpus < needed and not recipe.jobs.autoscaling:
        remedy = "ask for fewer, add nodes, or set jobs.autoscaling when the cluster adds them by itself"
        message = f"training wants {needed:g} GPUs, but the cluster at {address} has {gpus:g}; {remedy}"
        raise RecipeError(message, field="train.num_workers")


def check_key(recipe: Recipe) -> None:
    """Raises ServiceError when the service that a release tries will ask for a key and none is there to give."""
    tried = os.environ.get(SERVICE) or not dashboard_address()
    if recipe.serve.api_keys_env and tried and not os.environ.get(KEY):
        message = "the service asks for keys (serve.api_keys_env); give the flow one, to try the new champion with"
        raise CredentialsError(message, field=KEY)


def free_gib() -> float | None:
    """Room in a local home; None elsewhere."""
    root = home().local_path
    return None if root is None else shutil.disk_usage(root).free / 2**30


def skews() -> Iterator[tuple[str, float]]:
    """How many seconds this machine's clock is ahead of each server's that says the time over HTTP."""
    for variable in CLOCKS:
        address = os.environ.get(variable, "")
        if not address.startswith(("http://", "https://")):
            continue
        try:
            told = httpx.get(address, timeout=5.0).headers.get("Date")
        except httpx.HTTPError:
            continue  # whether it answers is asked elsewhere
        if told:
            yield variable, time.time() - parsedate_to_datetime(told).timestamp()


def describe_skew(seconds: float) -> str:
    """In words."""
    return f"this machine's clock is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} the server's"
