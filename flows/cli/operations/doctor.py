"""``mmface doctor``: reports what is installed, reachable and missing, with the fix for each problem."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from flows.cli.operations.deploy import DASHBOARDS, DEFAULT_FILE
from flows.steps.preflight import ADDRESSES, MAX_SKEW_SECONDS, describe_skew, free_gib, probe_home, skews
from mmface.config import Components
from mmface.config.environment import user_folder_problem
from mmface.config.load import load_recipe, summaries
from mmface.errors import MMFaceError, ServiceError
from mmface.networks.components import component_identity, describe
from mmface.networks.hub import choose_components
from mmface.store import home
from mmface.store.reach import LOCAL, check_sockets, dashboard_address, ray_folder, unreachable

PACKAGES = ("torch", "torchvision", "ray", "prefect", "mlflow", "diffusers", "transformers", "bitsandbytes", "pyarrow")
NEEDED_GIB = 3


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``remedy`` is empty when nothing is wrong."""

    what: str
    detail: str
    remedy: str = ""


def examine() -> int:
    """Prints every finding; returns 1 if one has a remedy."""
    here = [*_packages(), _device(), *_zoo(), *_preferred(), *_files(), _home(), _user(), *_sockets()]
    findings = [*here, *_services(), *_clocks(), *_cluster(), *_pools(), *_models()]
    for finding in findings:
        print(f"{'MISSING' if finding.remedy else 'ok':8}{finding.what:22}{finding.detail}")
        if finding.remedy:
            print(f"{'':8}{'':22}-> {finding.remedy}")
    return int(any(finding.remedy for finding in findings))


def _packages() -> Iterator[Finding]:
    yield Finding("python", sys.version.split()[0])
    for name in PACKAGES:
        try:
            yield Finding(name, version(name))
        except PackageNotFoundError:
            yield Finding(name, "not installed", "pip install -c constraints.txt -e .")


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("device", f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}")
    return Finding("device", f"CPU, {os.cpu_count()} cores (no CUDA device)")


def _zoo() -> Iterator[Finding]:
    for name in sorted({value for value in Components().model_dump().values() if str(value).startswith("zoo:")}):
        try:
            yield Finding(name, f"{describe(name)} {component_identity(name)}")
        except (MMFaceError, OSError) as error:
            yield Finding(name, str(error), "mmface zoo train")


def _preferred() -> Iterator[Finding]:
    """What the recipes that ship would rather use than the zoo, and whether it can be reached."""
    for name in summaries():
        recipe = load_recipe(name)
        chosen = choose_components(recipe).components
        for role, better in recipe.preferred:
            if better is not None:
                used = getattr(chosen, role)
                found = used if not used.startswith("zoo:") else f"{used}; {better} is better and cannot be reached"
                yield Finding(f"recipe {name}: {role}", found)


def _files() -> Iterator[Finding]:
    """Files that ship beside the packages."""
    for what, path in (("deployments", DEFAULT_FILE), ("dashboards", DASHBOARDS / "serving.json")):
        there = path.is_file()
        yield Finding(what, str(path) if there else f"no file {path}", "" if there else "install mmface again")


def _home() -> Finding:
    try:
        probe_home()
    except (MMFaceError, OSError) as error:
        return Finding("MMFACE_HOME", str(error), "set MMFACE_HOME to a folder or s3://bucket/prefix you can write to")
    free = free_gib()
    if free is None:
        return Finding("MMFACE_HOME", f"{home().uri} (writable)")
    remedy = "" if free >= NEEDED_GIB else f"free {NEEDED_GIB} GiB or set MMFACE_HOME elsewhere"
    return Finding("MMFACE_HOME", f"{home().uri} (writable, {free:.0f} GiB free)", remedy)


def _user() -> Finding:
    problem = user_folder_problem()
    place = os.environ.get("PREFECT_HOME") or "~/.prefect"
    return Finding("HOME", problem or f"Prefect keeps its files in {place}", "set PREFECT_HOME" if problem else "")


def _sockets() -> Iterator[Finding]:
    """Whether the socket paths of a Ray started on this machine are short enough."""
    if (os.environ.get("RAY_ADDRESS") or LOCAL) != LOCAL:
        return
    try:
        check_sockets()
    except ServiceError as error:
        yield Finding("TMPDIR", error.message, "set RAY_TMPDIR to a short path, such as /tmp")
    else:
        yield Finding("TMPDIR", f"{ray_folder()} is short enough for Ray's sockets")


def _services() -> Iterator[Finding]:
    for name, without in {**ADDRESSES, "AWS_ENDPOINT_URL": "the region's S3"}.items():
        address = os.environ.get(name)
        if not address:
            yield Finding(name, f"not set: {without}")
            continue
        problem = unreachable(address)
        yield Finding(name, problem or f"{address} answers", f"start it, or unset {name}" if problem else "")


def _clocks() -> Iterator[Finding]:
    for name, seconds in skews():
        if abs(seconds) > MAX_SKEW_SECONDS:
            yield Finding(f"clock of {name}", describe_skew(seconds), "set the clock (NTP)")


def _cluster() -> Iterator[Finding]:
    address = dashboard_address()
    if address is None or unreachable(address):
        return
    from flows.cluster.client import Cluster

    try:
        resources = Cluster(address).resources()
    except MMFaceError as error:
        yield Finding("Ray cluster", str(error), "for a cluster of mmface up: mmface up --env prints the token")
    else:
        has = ", ".join(f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
        yield Finding("Ray cluster", f"{has}, the token is accepted")


def _pools() -> Iterator[Finding]:
    """Work pools; flow runs of a pool without a worker would wait for ever."""
    address = os.environ.get("PREFECT_API_URL", "")
    if not address or unreachable(address):
        return
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        with get_client(sync_client=True) as client:
            for pool in client.read_work_pools():
                status = str(getattr(pool.status, "value", pool.status))
                remedy = "" if status != "NOT_READY" else f"prefect worker start --pool {pool.name}"
                yield Finding(f"pool {pool.name}", f"{pool.type}, {status}", remedy)
    except (httpx.HTTPError, PrefectHTTPStatusError) as error:
        yield Finding("Prefect", str(error).splitlines()[0], "check PREFECT_API_URL and PREFECT_API_KEY")


def _models() -> Iterator[Finding]:
    from mmface.bundles.registry import list_versions

    try:
        versions = list_versions()
    except MMFaceError as error:
        yield Finding("registry", str(error), "start the server, or unset MLFLOW_TRACKING_URI")
        return
    champion = next((one for one in versions if "champion" in one.aliases), None)
    if champion is None:
        yield Finding("champion", "none yet; run mmface retrain --recipe demo")
    else:
        yield Finding("champion", f"{champion.name} version {champion.version}")
