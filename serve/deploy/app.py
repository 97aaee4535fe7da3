"""Starts and stops the service on Ray Serve (§9)."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from http.client import HTTPConnection, HTTPException

import ray
from ray import serve
from ray.exceptions import GetTimeoutError, RayActorError

from mmface.bundles.registry import get_alias
from mmface.bundles.tracking import TRACKING_VARIABLE, tracking_uri
from mmface.config import Recipe, Serve
from mmface.errors import RegistryError, ServiceError, UnhealthyModelError
from mmface.store import HOME_VARIABLE, home
from mmface.store.reach import ray_address
from serve.deploy.deployments import UNSERVED, build
from serve.guards.access import Key, read_keys

APP = "mmface"
START_S = 300.0
# Variables that replicas get: addresses and credentials of the store and of MLflow. Variables that name files are left
# out, because the files exist only on this machine.
FORWARDED = (
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_S3_ENDPOINT_URL",
    "MLFLOW_S3_IGNORE_TLS",
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4",
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
)
_CONTROLLER = "SERVE_CONTROLLER_ACTOR"

log = logging.getLogger(__name__)


def run(recipe: Recipe, *, blocking: bool = False, home: str | None = None) -> str:
    """Serves the model that the recipe's alias points to.

    Args:
        recipe: its ``serve`` has host, port, model and limits.
        blocking: run until SIGINT or SIGTERM, then stop the service.
        home: set as this process's ``MMFACE_HOME``; by default the environment's value stays.

    Returns:
        The base URL; its ``/readyz`` has answered 200, unless ``blocking``.

    Raises:
        RegistryError: no version has the alias yet.
        ServiceError: Ray or the registry cannot be reached, the port is taken, or the model does not become ready. If
            ``blocking``, the service waits for a model that cannot be loaded, and ``/readyz`` says why.
    """
    settings = recipe.serve
    if home is not None:
        os.environ[HOME_VARIABLE] = home
    _keys(settings)  # fails early if they are malformed
    if get_alias(settings.model_name, settings.alias) is None:
        message = f"{settings.model_name} has no {settings.alias} yet: run mmface retrain"
        raise RegistryError(message, field="serve.alias")
    connect()
    fresh = not _serving()
    if fresh:
        require_free_port(settings)
        _start(settings)
    try:
        _deploy(settings)
    except ServiceError as error:
        if not (blocking and isinstance(error, UnhealthyModelError)):
            if fresh:
                shutdown()
            raise
        log.warning("serve: running, but not ready: %s", error.message)
    if blocking:
        _until_signal()
        shutdown()
    return base_url(settings)


def shutdown() -> None:
    """Stops the service after the running generations have finished. Ray keeps running."""
    serve.shutdown()  # type: ignore[no-untyped-call]


def base_url(settings: Serve) -> str:
    """The URL of the service for clients on this machine."""
    host = _local(settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def connect() -> None:
    """Connects to the Ray cluster of ``RAY_ADDRESS``, or starts a local Ray, unless this process is connected already.

    Raises:
        ServiceError: the cluster at ``RAY_ADDRESS`` cannot be reached.
    """
    if ray.is_initialized():
        return
    address = ray_address()
    if address:
        ray.init(address=address)
    else:
        # "local", because without an address Ray would join the cluster that was last started on this machine.
        options = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
        ray.init(address="local", logging_level=logging.WARNING, **options)


def require_free_port(settings: Serve) -> None:
    """Raises a ServiceError if another process listens on the port already."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            remedy = "stop the process that listens there, or choose another port with --set serve.port=PORT"
            raise ServiceError(
                f"{settings.host}:{settings.port}: {error.strerror}; {remedy}", field="serve.port"
            ) from None


def _serving() -> bool:
    try:
        ray.get_actor(_CONTROLLER, namespace="serve")
    except ValueError:
        return False
    return True


def _start(settings: Serve) -> None:
    try:
        serve.start(http_options={"host": settings.host, "port": settings.port})
    except (RayActorError, GetTimeoutError) as error:
        shutdown()
        message = "Ray Serve's HTTP proxy did not start in time; try again when the machine is less busy"
        raise ServiceError(message, field="serve") from error


def _deploy(settings: Serve) -> None:
    try:
        serve.run(build(settings, _environment(), _keys(settings)), name=APP, route_prefix="/")
    except RuntimeError as error:
        raise ServiceError(f"the model could not be served: {_last_line(error)}", field="serve") from None
    _wait_until_ready(settings)


def _environment() -> dict[str, str]:
    """Variables that let replicas reach the same registry. The home is absolute, as they run in another folder."""
    credentials = {name: os.environ[name] for name in FORWARDED if name in os.environ}
    return {HOME_VARIABLE: home().uri, TRACKING_VARIABLE: tracking_uri(), **credentials}


def _keys(settings: Serve) -> tuple[Key, ...] | None:
    """The API keys in this process's environment; None if only the environment of a cluster's ingress may have them."""
    variable = settings.api_keys_env
    elsewhere = variable is not None and variable not in os.environ and ray_address() is not None
    return None if elsewhere else read_keys(settings)


def _wait_until_ready(settings: Serve) -> None:
    end = time.monotonic() + START_S
    answer = "no answer"
    while time.monotonic() < end:
        connection = HTTPConnection(_local(settings.host), settings.port, timeout=15)
        try:
            connection.request("GET", "/readyz")
            response = connection.getresponse()
            answer = response.read().decode(errors="replace")
            if response.status == 200:
                return
            if response.status == 503 and f'"{UNSERVED}"' in answer:
                raise UnhealthyModelError(f"the model could not be served: {answer}", field=UNSERVED)
        except (OSError, HTTPException) as error:
            answer = str(error)
        finally:
            connection.close()
        time.sleep(0.2)
    raise ServiceError(f"{base_url(settings)} is not ready after {START_S:g} s: {answer}", field="serve")


def _local(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _until_signal() -> None:
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    stop.wait()


def _last_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1]
