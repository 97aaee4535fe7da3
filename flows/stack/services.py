"""The services of a local stack: ports, secrets, and the command line of each service."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from flows.stack.place import secret
from flows.stack.supervisor import Service
from mmface.errors import InputError, ServiceError

HOST = "127.0.0.1"
# Default ports. The other ports of Ray's processes are chosen at random.
PORTS = {"prefect": 4200, "mlflow": 5000, "ray": 8265, "gcs": 6379, "s3": 9000, "serve": 8000}
BUCKET, POOL = "mmface", "mmface"
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Options:
    """The options of ``mmface up``.

    Attributes:
        ports: port by service name; a service of :data:`PORTS` without one gets its default port, or any free port when
            ``free_ports``.
        cpus: number of CPUs that Ray schedules; None for one more than the machine has, since the HTTP service reserves
            one and is mostly idle.
        recipe, overrides: the recipe whose ``serve`` keys configure the HTTP service.
    """

    folder: Path
    ports: Mapping[str, int]
    free_ports: bool
    cpus: int | None
    object_store_mb: int
    recipe: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The services of a stack, ready to start.

    Attributes:
        environment: variables that users of the stack export.
    """

    services: list[Service]
    environment: dict[str, str]


def plan(options: Options, scratch: str) -> Plan:
    """Chooses ports and secrets and builds the command lines.

    Args:
        scratch: Ray's folder; its path must be short, since it holds sockets.

    Raises:
        ServiceError: moto is not installed, or a port is taken.
    """
    if find_spec("moto") is None or find_spec("flask") is None:
        message = "moto, which runs the S3 server, is not installed; pip install -c constraints.txt 'moto[server]'"
        raise ServiceError(message, field="s3")
    ports = choose_ports(options)
    environment = _environment(ports)
    inside = {**_quiet(), **environment, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"}
    folder = options.folder
    services = [
        _s3(ports, folder, inside),
        _mlflow(ports, folder, inside),
        _prefect(ports, folder, inside),
        _ray(ports, options, scratch, inside),
        _worker(folder, inside),
        _serve(ports, options, scratch, inside),
    ]
    return Plan(services, environment)


def choose_ports(options: Options) -> dict[str, int]:
    """The port of each service.

    Raises:
        InputError: a port is given for an unknown service.
        ServiceError: a port is taken.
    """
    unknown = sorted(set(options.ports) - set(PORTS))
    if unknown:
        raise InputError(f"there is no service {unknown[0]}; choose from {', '.join(PORTS)}", field="--port")
    free = iter(free_ports(len(PORTS)))
    ports = {name: options.ports.get(name) or (next(free) if options.free_ports else PORTS[name]) for name in PORTS}
    for name, port in ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                remedy = f"choose another with --port {name}=PORT, or any with --free-ports"
                raise ServiceError(f"port {port} for {name}: {error.strerror}; {remedy}", field="--port") from None
    return ports


def free_ports(count: int) -> list[int]:
    """``count`` different ports that are free."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((HOST, 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _environment(ports: Mapping[str, int]) -> dict[str, str]:
    """Addresses and new secrets."""
    return {
        "PREFECT_API_URL": f"http://{HOST}:{ports['prefect']}/api",
        "MLFLOW_TRACKING_URI": f"http://{HOST}:{ports['mlflow']}",
        "RAY_ADDRESS": f"http://{HOST}:{ports['ray']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secret(),
        "AWS_ENDPOINT_URL": f"http://{HOST}:{ports['s3']}",
        "AWS_ACCESS_KEY_ID": secret(),
        "AWS_SECRET_ACCESS_KEY": secret(),
        "AWS_DEFAULT_REGION": "us-east-1",
        "MMFACE_HOME": f"s3://{BUCKET}/home",
        "MMFACE_SERVE_URL": f"http://{HOST}:{ports['serve']}",
    }


def _quiet() -> dict[str, str]:
    """Switches off telemetry and colours, and sets log levels: logs get what the command line hides from terminals."""
    return {
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
        "MLFLOW_LOGGING_LEVEL": "INFO",
        "RAY_BACKEND_LOG_LEVEL": "warning",
        "DO_NOT_TRACK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_COLORS": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "flows,ray_jobs,mmface",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "PYTHONUNBUFFERED": "1",
    }


def _s3(ports: Mapping[str, int], folder: Path, inside: dict[str, str]) -> Service:
    given = ["--port", str(ports["s3"]), "--folder", str(folder / "s3"), "--bucket", BUCKET]
    url = f"http://{HOST}:{ports['s3']}"
    command = _python("flows.stack.s3", *given)
    return Service("s3", f"data, in the bucket {BUCKET}", url, command, inside, (f"{url}/healthz",), grace=2.0)


def _mlflow(ports: Mapping[str, int], folder: Path, inside: dict[str, str]) -> Service:
    url = f"http://{HOST}:{ports['mlflow']}"
    command = (
        *(str(BIN / "mlflow"), "server", "--host", HOST, "--port", str(ports["mlflow"]), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
        *("--artifacts-destination", str(folder / "mlflow-artifacts")),
    )
    environment = inside | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    del environment["MLFLOW_TRACKING_URI"]
    return Service("mlflow", "runs and registered models", url, command, environment, (f"{url}/health",), grace=5.0)


def _prefect(ports: Mapping[str, int], folder: Path, inside: dict[str, str]) -> Service:
    url = f"http://{HOST}:{ports['prefect']}"
    command = (str(BIN / "prefect"), "server", "start", "--host", HOST, "--port", str(ports["prefect"]))
    # Without this variable the web page calls Prefect's default port.
    environment = inside | {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_UI_API_URL": f"{url}/api"}
    del environment["PREFECT_API_URL"]
    about = "flows, deployments, schedules"
    return Service("prefect", about, url, command, environment, (f"{url}/api/health",), grace=10.0)


def _ray(ports: Mapping[str, int], options: Options, scratch: str, inside: dict[str, str]) -> Service:
    url = f"http://{HOST}:{ports['ray']}"
    agent, client, metrics, grpc, runtime = free_ports(5)  # Ray's default ports would clash with another cluster
    command = (
        *(str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats", "--node-ip-address", HOST),
        *("--port", str(ports["gcs"]), "--dashboard-host", HOST, "--dashboard-port", str(ports["ray"])),
        *("--dashboard-agent-listen-port", str(agent), "--dashboard-agent-grpc-port", str(grpc)),
        *("--ray-client-server-port", str(client), "--metrics-export-port", str(metrics)),
        *("--runtime-env-agent-port", str(runtime), "--min-worker-port", "0", "--max-worker-port", "0"),
        *("--num-cpus", str(options.cpus or len(os.sched_getaffinity(0)) + 1)),
        *("--object-store-memory", str(options.object_store_mb * 10**6), "--temp-dir", scratch),
    )
    environment = inside | {"RAY_TMPDIR": scratch}
    del environment["RAY_ADDRESS"]
    # A job also needs the node's agent, which starts last.
    health = (f"{url}/api/gcs_healthz", f"http://{HOST}:{agent}/api/healthz")
    return Service("ray", "jobs, actors, logs", url, command, environment, health, grace=20.0)


def _worker(folder: Path, inside: dict[str, str]) -> Service:
    (port,) = free_ports(1)
    command = (
        *(str(BIN / "prefect"), "--no-prompt", "worker", "start", "--pool", POOL, "--type", "process"),
        *("--name", "local", "--with-healthcheck"),
    )
    environment = inside | {
        "PREFECT_HOME": str(folder / "prefect-worker"),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # see infra/prefect/automations.yaml
        "PREFECT_WORKER_WEBSERVER_HOST": HOST,
        "PREFECT_WORKER_WEBSERVER_PORT": str(port),
    }
    url = f"http://{HOST}:{port}"
    about = f"runs the flows of the pool {POOL}"
    after = ("prefect", "s3", "mlflow", "ray")
    return Service("worker", about, url, command, environment, (f"{url}/health",), after, grace=20.0)


def _serve(ports: Mapping[str, int], options: Options, scratch: str, inside: dict[str, str]) -> Service:
    overrides = (*options.overrides, f"serve.host={HOST}", f"serve.port={ports['serve']}")
    given = ["--recipe", options.recipe, *(part for one in overrides for part in ("--set", one))]
    environment = inside | {"RAY_ADDRESS": f"{HOST}:{ports['gcs']}", "RAY_TMPDIR": scratch}
    url, command = f"http://{HOST}:{ports['serve']}", _python("flows.stack.champion", *given)
    about = "the champion, once there is one"
    return Service("serve", about, url, command, environment, after=("ray", "mlflow", "s3"), tied_to="ray")


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *arguments)
